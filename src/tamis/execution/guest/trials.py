"""Tries each layer of confinement on a throw-away child, one forbidden act included. ``probing.py`` starts it.

It runs in a fresh interpreter of its own, because what it tries cannot be undone, and because a process that holds a
model in memory is not to be forked.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable

from .confinement import (
    NET_RIGHTS_ABI,
    SCOPES_ABI,
    SyscallFilter,
    drop_privileges,
    filter_program,
    restrict_with_landlock,
)

PATIENCE_S = 10.0
SOME_USER = 54321


def main() -> None:
    """Prints, as JSON, a line that begins with yes or no for each layer."""
    print(json.dumps({name: attempt(trial) for name, trial in TRIALS.items()}))


def attempt(trial: Callable[[], str]) -> str:
    """What a trial in a forked child says, or why it says nothing."""
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        return f"no: {error}"
    if pid == 0:
        try:
            os.write(writer, tell(trial).encode())
        finally:
            os._exit(0)
    os.close(writer)
    line = os.read(reader, 4096).decode() if select.select([reader], [], [], PATIENCE_S)[0] else ""
    os.close(reader)
    os.kill(pid, signal.SIGKILL)  # it has not been waited for, so the number is still its own
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return line or f"no: the trial ended without a word (exit code {code})"


def tell(trial: Callable[[], str]) -> str:
    """Runs a trial in this process; whatever it raises is a no."""
    try:
        return trial()
    except Exception as error:
        return f"no: {error}"


def try_fork() -> str:
    """That this runs at all says it."""
    return "yes"


def try_privileges() -> str:
    """A change of user must be refused, to root as well as by root."""
    drop_privileges()
    return refused(lambda: os.setuid(0 if os.getuid() else SOME_USER), "a change of user")


def try_seccomp() -> str:
    """Opening what everybody may open must be refused."""
    syscall_filter = SyscallFilter(filter_program(os.uname().machine))
    drop_privileges()
    syscall_filter.install()
    return refused(lambda: os.open(os.devnull, os.O_RDONLY), "opening a file")


def try_landlock() -> str:
    """Opening what everybody may open must be refused."""
    drop_privileges()
    abi = restrict_with_landlock()
    if not abi:
        return "no: this kernel has none, or a container hides it"
    line = refused(lambda: os.open(os.devnull, os.O_RDONLY), "opening a file")
    if line != "yes":
        return line
    walls = ["files", *["TCP"] * (abi >= NET_RIGHTS_ABI), *["signals to other processes"] * (abi >= SCOPES_ABI)]
    return f"yes: ABI {abi}, which denies {', '.join(walls)}"


def refused(act: Callable[[], object], name: str) -> str:
    """``yes`` if the act is not permitted."""
    try:
        act()
    except PermissionError:
        return "yes"
    return f"no: it was turned on, but {name} was not refused"


TRIALS = {
    "fork": try_fork,
    "no new privileges": try_privileges,
    "seccomp": try_seccomp,
    "landlock": try_landlock,
}
