"""What both servers do with their own process as they start."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterable

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
LIBC = ctypes.CDLL(None)


# Holds the interpreter's lock during the call, so that the child has it, too.
_FORK = ctypes.PyDLL(None, use_errno=True).fork


def fork() -> int:
    """The system's fork without Python's hooks, for a process of one thread.

    The hooks make locks anew and reseed generators, for each module that was loaded. With one thread no lock is held by
    another one; and the page faults of the hooks would be a tenth of what a program costs.

    Raises:
        OSError: The system refused.
    """
    pid: int = _FORK()
    if pid < 0:
        raise OSError(ctypes.get_errno(), f"fork: {os.strerror(ctypes.get_errno())}")
    return pid


def set_process_option(option: int, value: int) -> None:
    """Linux's prctl; nothing elsewhere."""
    if sys.platform == "linux" and LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(f"prctl({option}, {value}) was refused")


def die_with_parent() -> None:
    """Has this process killed when its parent dies (on Linux: when the parent's thread that started it ends)."""
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_channels() -> tuple[socket.socket, socket.socket]:
    """The sockets to the parent process, which are the standard input and output; empties those and the environment."""
    channels = socket.socket(fileno=os.dup(0)), socket.socket(fileno=os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.environ.clear()
    return channels


def set_name(name: str) -> None:
    """What lists of processes show."""
    buffer = ctypes.create_string_buffer(name.encode())
    set_process_option(PR_SET_NAME, ctypes.addressof(buffer))


def preload(names: Iterable[str]) -> None:
    """Imports modules. One that this Python was built without is for the program that wants it to miss."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
