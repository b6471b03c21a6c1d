"""A long run: hostile programs among right and wrong ones, servers killed meanwhile, and every verdict right."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tamis.execution import Limits, Program, Sandbox, Status, Verdict

from .attacks import HARMLESS_ENDS, WRONG_ANSWERS, Case
from .attacks.machine import lacks
from .attacks.traces import descendants, nothing_left

PROGRAMS, SHARE_OF_HOSTILE, CHUNKS = 1500, 5, 4
VICTIMS = ("tamis-candidate", "tamis-tester", "tamis-candidate")  # one in each chunk but the last
LIMITS = Limits(cpu_s=2.0, wall_s=10.0, memory_mb=512)
HOSTILE = [case for case in WRONG_ANSWERS if case.quick]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left behind is looked up in /proc")

RIGHT_ENDS, WRONG_ENDS = frozenset({Status.PASSED}), frozenset({Status.FAILED})


def draw(number: int) -> tuple[str, Program, frozenset[Status]]:
    """A name for the program of this number, the program, and how it may end. No two programs are the same."""
    if number % SHARE_OF_HOSTILE == 0:
        case: Case = HOSTILE[number // SHARE_OF_HOSTILE % len(HOSTILE)]
        program = case.program()
        return case.name, replace(program, source=f"{program.source}\n# {number}\n"), HARMLESS_ENDS
    source = f"def scaled(values):\n    return [{number} * value for value in values]\n"
    right = number % 2 == 1
    name, ends = ("right", RIGHT_ENDS) if right else ("wrong", WRONG_ENDS)
    expected = [number * value + (not right) for value in (1, 2, 3)]
    return name, Program(source, f"assert scaled([1, 2, 3]) == {expected}\n"), ends


def servers(role: str) -> list[int]:
    """The servers of this role that this process has started; a candidate bears the name of its server."""
    found = []
    for process in descendants():
        try:
            parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
            names = [Path(f"/proc/{number}/comm").read_text().strip() for number in (process, parent)]
            if names[0] == role != names[1]:
                found.append(process)
        except OSError:  # ended since the listing
            continue
    return found


def killer(role: str, killed: list[int]) -> Callable[[], None]:
    """Kills one server of this role, which is at work by then."""

    def kill() -> None:
        victim = servers(role)[0]
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    return kill


def run_all(sandbox: Sandbox, programs: list[Program], killed: list[int]) -> list[Verdict]:
    """Runs the programs in a few chunks; a server is killed in the midst of each but the last."""
    verdicts: list[Verdict] = []
    size = len(programs) // CHUNKS
    for chunk in range(CHUNKS):
        timer = threading.Timer(0.5, killer(VICTIMS[chunk], killed)) if chunk < len(VICTIMS) else None
        if timer is not None:
            timer.start()
        verdicts += sandbox.run_many(programs[chunk * size : (chunk + 1) * size])
        if timer is not None:
            timer.join()
    return verdicts


def test_every_verdict_is_right_though_servers_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking := lacks("seccomp"):
        pytest.skip(f"a sandbox needs {lacking}")
    monkeypatch.chdir(tmp_path)
    names, programs, ends = zip(*(draw(number) for number in range(PROGRAMS)), strict=True)
    assert len(set(programs)) == PROGRAMS
    killed: list[int] = []
    with nothing_left(tmp_path):
        start = time.monotonic()
        with Sandbox(workers=2, limits=LIMITS) as sandbox:
            verdicts = run_all(sandbox, list(programs), killed)
        print(f"{PROGRAMS / (time.monotonic() - start):.0f} programs/s at the level {sandbox.level}")
    assert len(set(killed)) == len(VICTIMS)
    judged = zip(names, verdicts, ends, strict=True)
    misjudged = [(name, verdict.status, verdict.detail) for name, verdict, good in judged if verdict.status not in good]
    assert misjudged == []
