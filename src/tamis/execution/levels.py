"""Which isolation this machine can give: found out by running programs whose verdicts are known."""

from __future__ import annotations

from typing import Literal, get_args

from .bubblewrap import find_bubblewrap
from .programs import Limits, Program, Status
from .server_process import WorkerLostError
from .worker import Worker

Level = Literal["namespace", "seccomp", "process"]
Isolation = Literal["auto", "namespace", "seccomp", "process"]
LEVELS: tuple[Level, ...] = get_args(Level)
STRONG: tuple[Level, ...] = ("namespace", "seccomp")

# A few programs, not one: what must be refused is as telling as what must pass.
_SOURCE = """
import os, socket

def double(x):
    return 2 * x

def denied(act):
    try:
        {"open": lambda: open("/dev/null"), "listdir": lambda: os.listdir("/"), "socket": socket.socket,
         "fork": os.fork, "kill": lambda: os.kill(os.getpid(), 0)}[act]()
    except PermissionError:
        return True
    return False
"""
_RIGHT = Program(_SOURCE, "assert double(2) == 4 and double('a') == 'aa'")
_WRONG = Program(_SOURCE, "assert double(2) == 5")
_CONFINED = Program(_SOURCE, "for act in ('open', 'listdir', 'socket', 'fork', 'kill'):\n    assert denied(act), act")
# Looks from the test's process, whose only walls are the namespaces.
_EMPTY_ROOT = Program(
    _SOURCE,
    "import os\nassert double(1) == 2\nassert not os.path.exists('/etc/passwd'), 'the file system is visible'\n"
    "assert len([name for name in os.listdir('/proc') if name.isdigit()]) < 9, 'other processes are visible'",
)
_FIXES = {
    "namespace": "install bubblewrap (`pip install 'tamis[sandbox]'` or your system's package) on a system that lets "
    "users make namespaces",
    "seccomp": "use Linux on x86_64 or aarch64, in a container that allows seccomp",
}


class SandboxUnavailableError(RuntimeError):
    """This machine cannot give the isolation that was asked for."""


def open_worker(isolation: Isolation) -> Worker:
    """A started worker that has proved itself, at the level asked for.

    Args:
        isolation: A level, or ``auto`` for the strongest that works here and is a security boundary.

    Raises:
        ValueError: It is neither.
        SandboxUnavailableError: The level does not work here, or ``auto`` found none.
    """
    if isolation not in get_args(Isolation):
        raise ValueError(f"isolation is {isolation!r}; choose one of {', '.join(map(repr, get_args(Isolation)))}.")
    reasons: dict[Level, str] = {}
    for level in STRONG if isolation == "auto" else (isolation,):
        worker, reasons[level] = _try(level)
        if worker is not None:
            return worker
    missing = "; ".join(f"{level}: {reason}{_fix(level)}" for level, reason in reasons.items())
    advice = (
        " With isolation='process' programs run without a sandbox, under resource limits only: for code that you trust."
        if isolation == "auto"
        else " See `python -m tamis.execution` for what this machine offers."
    )
    raise SandboxUnavailableError(f"The isolation {isolation!r} is not to be had here. {missing}.{advice}")


def try_level(level: Level) -> str:
    """Runs known programs at a level (a tenth of a second); returns what is wrong, empty if all is well."""
    worker, reason = _try(level)
    if worker is not None:
        worker.stop()
    return reason


def _try(level: Level) -> tuple[Worker | None, str]:
    bwrap = find_bubblewrap() if level == "namespace" else None
    if level == "namespace" and bwrap is None:
        return None, "there is no program `bwrap`"
    worker = Worker(level, bwrap)
    try:
        reason = _self_test(worker)
    except (WorkerLostError, OSError) as error:
        reason = str(error)
    if reason:
        worker.stop()
    return (None if reason else worker), reason


def _self_test(worker: Worker) -> str:
    programs = {_RIGHT: Status.PASSED, _WRONG: Status.FAILED}
    if worker.level != "process":
        programs[_CONFINED] = Status.PASSED
    if worker.level == "namespace":
        programs[_EMPTY_ROOT] = Status.PASSED
    for program, status in programs.items():
        worker.prepare(program)
        verdict = worker.run(program, Limits())
        if verdict.status is not status:
            words = worker.last_words()
            return f"a program that must get {status} got {verdict.status} ({verdict.detail}){words}"
    return ""


def _fix(level: Level) -> str:
    return f" (to get it, {_FIXES[level]})" if level in _FIXES else ""
