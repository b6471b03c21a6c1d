"""The parent's handle on one fork server: starts it, sends it programs, notices when it is lost."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO

from . import server
from .programs import Limits, Program, Status, Verdict

# As `-I`, but for one thing: `-I` would also ignore PYTHONHASHSEED, and then the order of sets, hence some verdicts,
# would change from run to run. The environment is otherwise empty, so there is nothing else to ignore.
ARGUMENTS = ("-P", "-s", "-S", "-B")
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
GRACE_S = 5.0  # for the start of the server and for killing what a program left, on a busy machine
STOP_S = 3.0


class WorkerLostError(RuntimeError):
    """The fork server died, fell silent, or was told to stop."""


class Worker:
    """One fork server, started on first use. Used by one thread, except for ``interrupt``.

    Args:
        limits: What each program may use.
        level: The name of the isolation, copied into each verdict.
    """

    def __init__(self, limits: Limits, level: str) -> None:
        self._limits = limits
        self._level = level
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._log: IO[bytes] | None = None
        self._folder = ""

    @property
    def pid(self) -> int | None:
        """The server's process number; None when none runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the server unless it runs.

        Raises:
            OSError: The interpreter or the temporary folder could not be had.
        """
        if self._process is not None:
            return
        self._folder = tempfile.mkdtemp(prefix="tamis-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *ARGUMENTS, str(Path(server.__file__).resolve())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                cwd=self._folder,
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
            )

    def run(self, program: Program) -> Verdict:
        """Runs one program on the started server.

        Raises:
            WorkerLostError: There was no answer; ``stop`` and ``start`` before the next program.
        """
        if self._channel is None:
            raise WorkerLostError("the worker is not started")
        deadline = time.monotonic() + self._limits.wall_s + GRACE_S
        request = {"source": program.source, "test": program.test, "limits": asdict(self._limits)}
        try:
            self._channel.settimeout(GRACE_S)
            server.send(self._channel, request)
            reply = server.receive(self._channel, deadline)
        except OSError as error:  # among them TimeoutError and BrokenPipeError
            raise WorkerLostError(f"the fork server did not answer: {error}") from error
        if reply is None:
            raise WorkerLostError(f"the fork server died{self._last_words()}")
        return Verdict(Status(reply["status"]), reply["detail"], reply["cpu_s"], reply["wall_s"], self._level)

    def interrupt(self) -> None:
        """Hangs up, from any thread: a waiting ``run`` raises, and the server kills its program and ends."""
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(OSError):  # closed or hung up already
                channel.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Ends the server and its program, and removes its folder. May be called twice."""
        if self._channel is not None:
            self._channel.close()  # the server then kills its program and leaves
        if self._process is not None:
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._channel = self._log = None
        self._folder = ""

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""
