"""One server as the parent sees it: a process and a socket."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

from .bubblewrap import wrap
from .guest import wire

# As `-I`, but for one thing: `-I` would also ignore PYTHONHASHSEED, and then the order of sets, hence some verdicts,
# would change from run to run. The environment is otherwise empty, so there is nothing else to ignore.
ARGUMENTS = ("-P", "-s", "-S", "-B")
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
GUEST = Path(wire.__file__).resolve().parent
# The path entry is taken back at once, so that no program finds this package by it.
BOOTSTRAP = "import sys; sys.path.append({path!r}); from guest.{role}_server import main; sys.path.pop(); main()"
START_S = 60.0  # on a machine so busy that an interpreter takes long to start
TESTER_MEMORY_MB = 4096
SEND_S = 5.0
STOP_S = 0.5  # it ends by itself when hung up on, unless a test keeps it

Role = Literal["candidate", "tester"]


class WorkerLostError(RuntimeError):
    """A server died, fell silent, or was told to stop."""


class ServerProcess:
    """One server, started on first use.

    Args:
        role: Whether it runs candidates or tests.
        level: The isolation.
        bwrap: The program that makes the namespaces; needed by the level ``namespace`` only.
    """

    def __init__(self, role: Role, level: str, bwrap: str | None = None) -> None:
        self._role, self._level, self._bwrap = role, level, bwrap
        self.modules: list[str] = []  # loaded as it starts, beside its own
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._log: IO[bytes] | None = None
        self._folder = ""
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The process number; None when it is not started."""
        return None if self._process is None else self._process.pid

    def launch(self) -> None:
        """Starts the process unless it runs; does not wait for it."""
        if self._process is not None:
            return
        if self._level == "process" and self._role == "candidate":  # elsewhere no program can write a file
            self._folder = tempfile.mkdtemp(prefix="tamis-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._channel, theirs = socket.socketpair()
        bootstrap = BOOTSTRAP.format(path=str(GUEST.parent), role=self._role)
        command = [sys.executable, *ARGUMENTS, "-c", bootstrap, self._level, str(TESTER_MEMORY_MB), *self.modules]
        if self._level == "namespace":
            command = wrap(command, [GUEST], self._bwrap or "bwrap", as_init=self._role == "candidate")
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                cwd=self._folder or "/",
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
            )

    def wait_until_ready(self) -> None:
        """Waits until it serves.

        Raises:
            WorkerLostError: It did not start; the message says why.
        """
        if not self._ready:
            self.receive(time.monotonic() + START_S)
            self._ready = True

    def send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        """Sends a request."""
        if self._channel is None:
            raise WorkerLostError("the server is not started")
        self._channel.settimeout(SEND_S)
        wire.send(self._channel, message, descriptors)

    def receive(self, deadline: float) -> dict[str, Any]:
        """Waits for a report.

        Raises:
            WorkerLostError: The server died.
            TimeoutError: There was no answer until the deadline.
        """
        if self._channel is None:
            raise WorkerLostError("the server is not started")
        reply = wire.receive(self._channel, deadline)
        if reply is None:
            raise WorkerLostError(f"the {self._role} server died{self.last_words()}")
        return reply

    def interrupt(self) -> None:
        """Hangs up, from any thread: a waiting ``receive`` raises, and the server kills its child and ends."""
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(OSError):  # closed or hung up already
                channel.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Closes the line: the server kills its child and leaves, see ``stop``."""
        if self._channel is not None:
            self._channel.close()

    def stop(self, patience_s: float = STOP_S) -> int | None:
        """Ends the server and its child, and removes its folder; returns its exit code. May be called twice.

        Args:
            patience_s: How long it may take to end by itself before it is killed.
        """
        self.hang_up()
        code = None
        if self._process is not None:
            try:
                code = self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
        if self._log is not None:
            self._log.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process = self._channel = self._log = None
        self._folder, self._ready = "", False
        return code

    def last_words(self) -> str:
        """The last line that the server wrote to its standard error."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""
