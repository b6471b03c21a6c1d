"""The candidate server: a small, clean interpreter that forks a confined child for each program, and watches it.

It never sees a test: not even the memory that its children inherit holds one. Built from the standard library alone: it
must start in milliseconds and stay small, because every fork copies its page tables. The parent's side is
``worker.py``.
"""

from __future__ import annotations

import _socket
import codecs
import gc
import math
import os
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from . import candidate
from .children import Child, remove
from .confinement import (
    ResourceLimit,
    SyscallFilter,
    drop_privileges,
    filter_program,
    resource_limits,
    restrict_with_landlock,
    set_limits,
    share_one_arena,
)
from .process import PR_SET_CHILD_SUBREAPER, die_with_parent, fork, preload, set_process_option
from .wire import Message, receive, send

CHANNEL_FD = 3
WARM_UPS = 10
MAX_WAIT_S = 10.0
TICK_S = 0.02  # how often the child's CPU time is read at least, so by how much a program may overrun its limit
# What answers to programming tasks are seen to use; others come on demand, by name.
PRELOAD = (
    "abc array bisect builtins calendar cmath codecs collections collections.abc contextlib contextvars copy copyreg "
    "ctypes dataclasses datetime decimal enum errno fcntl fractions functools gc hashlib heapq importlib inspect io "
    "itertools json keyword locale math numbers operator os queue random re signal socket statistics string struct "
    "sys textwrap threading time traceback types typing unicodedata warnings weakref _strptime"
)
ENCODINGS = (
    "ascii base64_codec cp1252 hex_codec idna latin_1 punycode raw_unicode_escape rot_13 unicode_escape utf_16 "
    "utf_16_be utf_16_le utf_32 utf_8_sig"
)


def serve(channel: socket.socket, level: str, modules: Sequence[str]) -> None:
    """Serves requests until the parent process hangs up.

    Args:
        channel: The socket to the parent process.
        level: The isolation.
        modules: What programs may import beside the usual, where they cannot open files.
    """
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    preload([*PRELOAD.split(), *modules])
    for name in ENCODINGS.split():
        codecs.lookup(name)
    syscall_filter = None if level == "process" else confine_server()
    random.seed(0)  # or a program that draws without a seed would differ from run to run
    share_one_arena()
    warm_up()
    gc.collect()
    gc.disable()
    gc.freeze()  # or the first collection in a child would copy every page
    send(channel, {"ready": True})
    Server(channel, syscall_filter, os.getcwd() if level == "process" else "").serve()


def warm_up() -> None:
    """Serves a program here as a child would.

    Python writes into the code that it runs until it has seen it a few times; after that, its pages stay shared.
    """
    call = {"object": 0, "value": {"tuple": [{"tuple": [[1, "a"], 2.5]}, {"dict": []}]}, "nodes": [], "token": ""}
    for _ in range(WARM_UPS):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            send(ours, {"source": "def f(*x): return [x]", "names": ["f"], "shapes": [], "token": ""})
            for _ in range(2):
                send(ours, call)
            ours.shutdown(socket.SHUT_WR)
            candidate.serve(theirs, 1 << 20)
    sys.modules.pop("candidate")


def confine_server() -> SyscallFilter:
    """Takes from this process, and so from its children, what it needs no more; prepares their system call filter."""
    syscall_filter = SyscallFilter(filter_program(os.uname().machine))
    drop_privileges()
    restrict_with_landlock()
    syscall_filter.rehearse()
    return syscall_filter


class Server:
    """Forks, watches and ends one child at a time.

    Args:
        channel: The socket to the parent process.
        syscall_filter: Installed in each child; None leaves them without.
        folder: Where each child gets an empty folder of its own to work in; empty gives none.
    """

    def __init__(self, channel: socket.socket, syscall_filter: SyscallFilter | None, folder: str) -> None:
        self.channel, self.syscall_filter = channel, syscall_filter
        self.folder = folder and os.path.join(folder, "run")
        self._limits: Message = {}
        self._resource_limits: list[ResourceLimit] = []

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
        if limits != self._limits:
            # Behind this server, which counts CPU time in fractions of a second.
            cpu_s = math.ceil(limits["cpu_s"]) + 1
            self._resource_limits = resource_limits(cpu_s, limits["memory_mb"], limits["file_mb"], limits["open_files"])
            self._limits = limits
        if self.folder:
            os.mkdir(self.folder, 0o700)
        deadline = time.monotonic() + limits["wall_s"]
        pid = fork()
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
            try:
                self._confine(request["limits"], files[0])
            except OSError as error:  # the self-test then tells of it, as the server's last words
                os.write(2, f"a child could not be confined: {error}\n".encode())
                raise
            # The C class alone: its Python subclass would convert and check the constants, page fault by page fault.
            channel: Any = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, CHANNEL_FD)
            candidate.serve(channel, request["limits"]["reply_mb"] << 20)
        finally:
            leave(0)

    def _confine(self, limits: Message, line: int) -> None:
        """Own session, own folder, no open file but the channel, and the limits."""
        os.setsid()
        die_with_parent()
        if line != CHANNEL_FD:
            os.dup2(line, CHANNEL_FD, inheritable=False)
        os.closerange(CHANNEL_FD + 1, 1 << 16)
        if self.folder:
            os.chdir(self.folder)
        set_limits(self._resource_limits)
        gc.enable()
        os.dup2(0, 2)  # 0 and 1 are /dev/null since the server started
        if self.syscall_filter is not None:
            self.syscall_filter.install()
