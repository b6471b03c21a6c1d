"""``python -m tamis.execution``: says what this machine offers for running untrusted programs, and what is missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .probing import probe, strongest

DESCRIPTION = (
    "Tries every layer of isolation that the sandbox can use on throw-away processes, and says which level "
    'isolation="auto" takes here, what is on at that level, and how to get what is missing. '
    "The exit status is 1 where auto would refuse to run programs."
)
ALWAYS = "limits on CPU time, memory, file size and open files; an empty environment; a test process of its own"
SECCOMP = "no capabilities; no system calls but those on a list: no path, no socket, no process, no signal to another"
LANDLOCK = "Landlock: no files, whatever the system call"
NAMESPACE = "namespaces: no files but Python's own, no network, no other processes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tamis.execution", description=DESCRIPTION)
    parser.parse_args(arguments)
    report, console = probe(), Console(highlight=False)
    table = Table(title="What this machine offers", title_justify="left", box=None, pad_edge=False)
    for header in ("Layer", ""):
        table.add_column(header, no_wrap=True)
    table.add_column("Why, and what to do", overflow="fold")
    for layer, line in report.items():
        answer, _, reason = line.partition(": ")
        table.add_row(layer, f"[{'green' if answer == 'yes' else 'red'}]{answer}[/]", reason.replace("[", r"\["))
    console.print(table)
    level = strongest(report)
    if level is None:
        console.print(
            '\nisolation="auto" refuses to run programs here: neither level namespace nor level seccomp works.'
        )
        console.print('isolation="process" runs them under limits only: for code that you trust.')
        return 1
    console.print(f'\nisolation="auto" takes the level [bold]{level}[/]. On for each program:')
    for wall in _walls(report):
        console.print(f"- {wall}", soft_wrap=True)
    return 0


def _walls(report: dict[str, str]) -> list[str]:
    on = [ALWAYS, SECCOMP]
    if report["landlock"].startswith("yes"):
        on.append(LANDLOCK)
    if strongest(report) == "namespace":
        on.append(NAMESPACE)
    return on


if __name__ == "__main__":
    sys.exit(main())
