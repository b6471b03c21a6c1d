"""A forked child: how much CPU time it has used, whether it has ended, and ending it with all that it left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time


class Child:
    """A child of this process, until it is ended.

    Args:
        pid: Its process number. It stays the child's until ``end``, even if the child has ended before.
        can_fork: Whether it may have children of its own, to be looked for at its end.
    """

    def __init__(self, pid: int, can_fork: bool) -> None:
        self.pid, self.can_fork = pid, can_fork
        self.pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None  # macOS has none

    def cpu_time(self) -> float:
        """CPU seconds so far, by Linux's per-process clock; 0.0 where there is none (RLIMIT_CPU decides)."""
        try:
            return time.clock_gettime((~self.pid) << 3 | 2)
        except OSError:
            return 0.0

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> tuple[int, resource.struct_rusage]:
        """Kills it, and every process that it has left behind; returns its wait status and what it used."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # a zombie already (macOS: PermissionError)
            if self.pidfd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.can_fork:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # no group before the child's setsid
                os.killpg(self.pid, signal.SIGKILL)
        if self.pidfd is not None:
            os.close(self.pidfd)
        _, wait_status, usage = os.wait4(self.pid, 0)
        if self.can_fork:
            kill_orphans()
        return wait_status, usage


def kill_orphans(patience_s: float = 2.0) -> None:
    """Kills descendants that left the process group: they come to this process, which is a child subreaper (Linux).

    Raises:
        SystemExit: Some would not die within the patience; the parent process then starts another server.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:  # the usual case: nobody is left
            return
        for orphan in children():
            os.kill(orphan, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SystemExit("orphans of a program would not die")
        time.sleep(0.001)


def children() -> list[int]:
    """The process numbers of this server's children, from /proc."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # ended since the listing
            continue
        if parent == os.getpid():
            found.append(int(name))
    return found


def remove(folder: str) -> None:
    """Removes the program's folder with whatever it wrote there."""
    try:
        os.rmdir(folder)
    except OSError:  # not empty
        import shutil  # seldom needed, and its imports would make every fork dearer

        shutil.rmtree(folder)
