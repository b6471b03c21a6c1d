"""Judges the judge: every benchmark's reference solutions must pass, and answers that return None must not.

    python benchmarks/references.py HumanEval.jsonl.gz sanitized-mbpp.json mbpp.jsonl[10:510]

Prints for each file how many references pass, the ids of those that do not with the reason, and how many of the answers
that return None are rejected. Where there is no reference (LeetCode), only the second is measured. The exit status is 1
if an answer that returns None passes.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress

from tamis.datamodules.jsonl import read_jsonl
from tamis.execution import Limits, Program, Sandbox, Verdict, benchmark_of, program

Row = dict[str, Any]
CHUNK = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all files; returns the exit status."""
    options = _parser().parse_args(arguments)
    limits = Limits(cpu_s=options.cpu_s, wall_s=options.wall_s, memory_mb=options.memory_mb, reply_mb=options.reply_mb)
    console = Console(soft_wrap=True, highlight=False)
    fooled = 0
    with Sandbox(options.workers, limits=limits) as sandbox, Progress(console=console) as progress:
        console.print(f"isolation {sandbox.level}, {limits}")
        for path in options.files:
            fooled += _measure(path, sandbox, progress)
    return int(fooled > 0)


def reference(row: Row) -> str | None:
    """The row's own solution, in the form of an answer."""
    return row.get("code") or row.get("canonical_solution")


def empty_answer(row: Row) -> str:
    """An answer whose functions all return None."""
    benchmark = benchmark_of(row)
    if benchmark in ("humaneval", "humaneval_plus", "cases"):
        return "    return None\n"
    if benchmark == "leetcode":
        return "        return None\n"
    module = ast.parse(str(reference(row)).replace("\r\n", "\n"))
    functions = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
    classes = [node.name for node in module.body if isinstance(node, ast.ClassDef)]
    bodies = [f"def {name}(*arguments, **named):\n    return None\n" for name in functions]
    return "\n".join([*(f"class {name}:\n    def __init__(self, *arguments): ...\n" for name in classes), *bodies])


def _measure(path: str, sandbox: Sandbox, progress: Progress) -> int:
    """Judges one file; returns how many answers that return None pass."""
    rows = read_jsonl(path)
    solved = [(row, str(reference(row))) for row in rows if reference(row)]
    verdicts = _run(f"{path}: references", [program(row, code) for row, code in solved], sandbox, progress)
    empty = _run(f"{path}: None", [program(row, empty_answer(row)) for row in rows], sandbox, progress)
    fooled = [row for row, verdict in zip(rows, empty, strict=True) if verdict.passed]
    passed = sum(verdict.passed for verdict in verdicts)
    progress.console.print(
        f"{path} ({benchmark_of(rows[0])}): {passed}/{len(solved)} references pass, "
        f"{len(rows) - len(fooled)}/{len(rows)} answers of None are rejected"
    )
    for (row, _), verdict in zip(solved, verdicts, strict=True):
        if not verdict.passed:
            place = row.get("task_id", row["_source"])
            progress.console.print(f"  {place}: {verdict.status} after {verdict.cpu_s:.1f} s of CPU. {verdict.detail}")
    for row in fooled:
        progress.console.print(f"  {row.get('task_id', row['_source'])}: None PASSES")
    return len(fooled)


def _run(label: str, programs: list[Program], sandbox: Sandbox, progress: Progress) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for start in progress.track(range(0, len(programs), CHUNK), description=label):
        verdicts += sandbox.run_many(programs[start : start + CHUNK])
    return verdicts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="files of a benchmark; may end in a range, as in mbpp.jsonl[10:510]")
    parser.add_argument("--cpu-s", type=float, default=10.0, help="CPU seconds a program (published harnesses: 10)")
    parser.add_argument("--wall-s", type=float, default=60.0)
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--reply-mb", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
