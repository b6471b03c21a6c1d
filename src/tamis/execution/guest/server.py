"""A fork server: a small, clean interpreter that forks a prepared child for each program, watches it, and reports.

Each worker has two: one whose children run candidates and which never sees a test, and one whose children run tests.
Built from the standard library alone: it must start in milliseconds and stay small, because every fork copies its page
tables. The parent's side is ``worker.py``; requests come over a socket that is the server's standard input.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import random
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from . import candidate, tester
from .children import Child, remove
from .confinement import SyscallFilter, drop_privileges, filter_program, restrict_with_landlock, set_limits
from .wire import Message, receive, send

CHANNEL_FD, OUTCOME_FD = 3, 4
MAX_WAIT_S = 10.0
TICK_S = 0.02  # how often the child's CPU time is read at least, so by how much a program may overrun its limit
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# All that a program may import where it cannot open files: what answers to programming tasks are seen to use.
PRELOAD = (
    "abc array ast asyncio base64 binascii bisect builtins calendar cmath collections collections.abc colorsys "
    "concurrent.futures contextlib copy csv dataclasses datetime decimal difflib enum errno fractions functools gc "
    "graphlib hashlib heapq html io itertools json keyword locale logging math numbers operator pprint queue random re "
    "secrets statistics string struct sys tempfile textwrap threading time timeit traceback types typing unicodedata "
    "unittest urllib.parse uuid warnings weakref zlib"
)


def main() -> None:
    """Serves requests until the parent process hangs up."""
    role, level = sys.argv[1:3]
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.environ.clear()
    for name in PRELOAD.split():
        __import__(name)
    confined = role == "candidate" and level != "process"
    syscall_filter = confine_server() if confined else None
    gc.collect()
    gc.disable()
    gc.freeze()  # or the first collection in a child would copy every page
    send(channel, {"ready": role})
    Server(channel, role, syscall_filter, os.getcwd() if level == "process" else "").serve()


def confine_server() -> SyscallFilter:
    """Takes from this process, and so from its children, what it needs no more; prepares their system call filter."""
    syscall_filter = SyscallFilter(filter_program(os.uname().machine))
    drop_privileges()
    restrict_with_landlock()
    return syscall_filter


def set_process_option(option: int, value: int) -> None:
    """Linux's prctl; nothing elsewhere."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(f"prctl({option}, {value}) was refused")


class Server:
    """Forks, watches and ends one child at a time.

    Args:
        channel: The socket to the parent process.
        role: ``candidate`` or ``tester``.
        syscall_filter: Installed in candidates; None leaves them without.
        folder: Where each child gets an empty folder of its own to work in; empty gives none.
    """

    def __init__(self, channel: socket.socket, role: str, syscall_filter: SyscallFilter | None, folder: str) -> None:
        self.channel, self.role, self.syscall_filter = channel, role, syscall_filter
        self.folder = folder and os.path.join(folder, "run")

    def serve(self) -> None:
        """Answers each request with one report, until the parent process hangs up."""
        while True:
            files: list[int] = []
            request = receive(self.channel, files=files)
            if request is None:
                return
            if "patience_s" not in request:  # else a late order to stop: its child had ended by itself
                report = self.run(request, files)
                if report is None:
                    return
                send(self.channel, report)

    def run(self, request: Message, files: list[int]) -> Message | None:
        """Runs one child to its end; None when the parent process has gone meanwhile."""
        limits = request["limits"]
        if self.folder:
            os.mkdir(self.folder, 0o700)
        deadline = time.monotonic() + limits["wall_s"]
        pid = os.fork()
        if pid == 0:
            self._become_child(request, files)
        for descriptor in files:
            os.close(descriptor)
        child = Child(pid, can_fork=self.syscall_filter is None)
        reason = self._watch(child, limits["cpu_s"], deadline)
        wait_status, usage = child.end()
        if self.folder:
            remove(self.folder)
        if reason == "parent gone":
            return None
        peak_mb = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        cpu_s = usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(wait_status)
        return {"reason": reason, "code": code, "cpu_s": cpu_s, "peak_mb": peak_mb}

    def _watch(self, child: Child, cpu_s: float, deadline: float) -> str:
        """Waits until the child has ended by itself, must be stopped, or has reached a limit; says which."""
        poller = select.poll()
        poller.register(self.channel, select.POLLIN)
        if child.pidfd is not None:
            poller.register(child.pidfd, select.POLLIN)
        stopping = False
        while True:
            left = min(cpu_s - child.cpu_time(), deadline - time.monotonic())
            wait = TICK_S if child.pidfd is None else max(left / 4, TICK_S)  # few at first, the last ones exact
            ready = {descriptor for descriptor, _ in poller.poll(min(wait, MAX_WAIT_S) * 1000)}
            if self.channel.fileno() in ready:
                message = receive(self.channel)
                if message is None:
                    return "parent gone"
                stopping, deadline = True, time.monotonic() + message["patience_s"]
            if child.has_ended():
                return "ended"
            if child.cpu_time() >= cpu_s:
                return "cpu"
            if time.monotonic() >= deadline:
                return "stopped" if stopping else "wall"

    def _become_child(self, request: Message, files: list[int]) -> NoReturn:
        leave = os._exit  # taken now: a program may replace the name
        try:
            self._confine(request["limits"], files)
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=CHANNEL_FD)
            reply_bytes = request["limits"]["reply_mb"] << 20
            if self.role == "candidate":
                candidate.serve(channel, reply_bytes)
            else:
                outcome = tester.run_test(request, channel, reply_bytes)
                os.write(OUTCOME_FD, json.dumps(outcome._asdict()).encode() + b"\n")
        finally:
            leave(0)

    def _confine(self, limits: Message, files: list[int]) -> None:
        """Own session, own folder, no open files but the ones handed over, and the limits."""
        os.setsid()
        set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(0, 1)  # 0 is /dev/null since the server started
        os.dup2(0, 2)
        for target, descriptor in enumerate(files, CHANNEL_FD):
            os.dup2(descriptor, target, inheritable=False)
        os.closerange(CHANNEL_FD + len(files), 1 << 16)
        if self.folder:
            os.chdir(self.folder)
        # Behind the watching server, which counts in fractions of a second.
        set_limits(math.ceil(limits["cpu_s"]) + 1, limits["memory_mb"], limits["file_mb"], limits["open_files"])
        gc.enable()
        random.seed(0)  # Python reseeds it in a fork, and a program that draws would differ from run to run
        if self.syscall_filter is not None:
            self.syscall_filter.install()
