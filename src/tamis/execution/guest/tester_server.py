"""The tester server: a small, clean interpreter that runs one test after the other. Tests are trusted code.

It does not fork for a test, which would cost as much again as the program. Each test gets a module of its own; one
that runs wild, or changes what all tests share, takes this process with it, and the worker starts another one.
"""

from __future__ import annotations

import contextlib
import gc
import random
import resource
import signal
import socket
import sys
from collections.abc import Sequence

from .process import preload
from .surroundings import Surroundings
from .tester import run_test
from .wire import Message, receive, send

PRELOAD = (
    "collections copy functools heapq itertools math re string typing"  # it can import the others when it needs to
)


def serve(channel: socket.socket, memory_mb: int, modules: Sequence[str]) -> None:
    """Serves requests until the parent process hangs up.

    Args:
        channel: The socket to the parent process.
        memory_mb: The limit of this process's address space, in MiB.
        modules: What tests were seen to import, beside the usual.
    """
    preload([*PRELOAD.split(), *modules])
    limit_memory(memory_mb << 20)
    gc.collect()
    gc.freeze()
    surroundings = Surroundings()
    send(channel, {"ready": True})
    line: socket.socket | None = None
    while True:
        files: list[int] = []
        job = receive(channel, files=files)
        if line is not None:
            line.close()  # not before: the candidate would wake up only to see that it is over, and then be killed
        if job is None:
            return
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=files[0])
        outcome = run_within_limits(job, line)
        spent = not surroundings.unchanged()
        # What tests import is loaded before the first one from now on, so that it can be looked after, too.
        send(channel, outcome | {"spent": spent, "imported": surroundings.imported() if spent else []})


def limit_memory(size: int) -> None:
    """Limits the address space, which macOS does not offer."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if sys.platform != "darwin":
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def run_within_limits(job: Message, line: socket.socket) -> Message:
    """Runs one test. If it takes more CPU time than it may, the system's timer kills this process."""
    random.seed(0)
    signal.setitimer(signal.ITIMER_PROF, job["limits"]["test_cpu_s"])
    try:
        with contextlib.redirect_stderr(sys.stdout):  # which leads nowhere; the real one is for last words
            return run_test(job, line, job["limits"]["reply_mb"] << 20)._asdict()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.modules.pop("test", None)
