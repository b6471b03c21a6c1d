"""One worker's server processes as the parent sees them: a process, and a line to each server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from .bubblewrap import wrap
from .guest import wire

# As `-I`, but for one thing: `-I` would also ignore PYTHONHASHSEED, and then the order of sets, hence some verdicts,
# would change from run to run. The environment is otherwise empty, so there is nothing else to ignore.
ARGUMENTS = ("-P", "-s", "-S", "-B")
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
GUEST = Path(wire.__file__).resolve().parent
# The path entry is taken back at once, so that no program finds this package by it.
BOOTSTRAP = (
    f"import sys; sys.path.append({str(GUEST.parent)!r}); from guest.servers import main; sys.path.pop(); main()"
)
START_S = 60.0  # on a machine so busy that an interpreter takes long to start
TESTER_MEMORY_MB = 4096
SEND_S = 5.0
STOP_S = 0.5  # it ends by itself when hung up on, unless a test keeps it


class WorkerLostError(RuntimeError):
    """A server died, fell silent, or was told to stop."""


class Line:
    """A socket to one server.

    Args:
        name: The server, for messages.
        channel: The socket.
    """

    def __init__(self, name: str, channel: socket.socket) -> None:
        self._name, self._channel = name, channel

    def send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        """Sends a request."""
        self._channel.settimeout(SEND_S)
        wire.send(self._channel, message, descriptors)

    def receive(self, deadline: float) -> dict[str, Any]:
        """Waits for a report.

        Raises:
            WorkerLostError: The server died.
            TimeoutError: There was no answer until the deadline.
        """
        reply = wire.receive(self._channel, deadline)
        if reply is None:
            raise WorkerLostError(f"the {self._name} server died")
        return reply

    def interrupt(self) -> None:
        """Hangs up, from any thread: a waiting ``receive`` raises, and the server kills its child and ends."""
        with contextlib.suppress(OSError):  # closed or hung up already
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hangs up for good."""
        self._channel.close()


class ServerProcess:
    """A running process with the two servers of a worker.

    Args:
        level: The isolation.
        bwrap: The program that makes the namespaces; needed by the level ``namespace`` only.
        test_modules: What tests were seen to import, loaded as it starts.
        program_modules: The same for programs.

    Raises:
        OSError: The interpreter or the temporary folder could not be had.
    """

    def __init__(
        self, level: str, bwrap: str | None, test_modules: Collection[str], program_modules: Collection[str]
    ) -> None:
        # At the other levels no program can write a file.
        self._folder = tempfile.mkdtemp(prefix="tamis-") if level == "process" else ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._words = ""
        modules = " ".join(sorted(test_modules)), " ".join(sorted(program_modules))
        command = [sys.executable, *ARGUMENTS, "-c", BOOTSTRAP, level, str(TESTER_MEMORY_MB), *modules]
        if level == "namespace":
            command = wrap(command, [GUEST], bwrap or "bwrap")
        (tests, standard_input), (candidates, standard_output) = socket.socketpair(), socket.socketpair()
        self.tests, self.candidates = Line("tester", tests), Line("candidate", candidates)
        with standard_input, standard_output:
            self._process = subprocess.Popen(
                command,
                stdin=standard_input.fileno(),
                stdout=standard_output.fileno(),
                stderr=self._log,
                cwd=self._folder or "/",
                env=ENVIRONMENT,
                start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
            )

    def wait_until_ready(self) -> None:
        """Waits until both serve.

        Raises:
            WorkerLostError: One did not start.
            TimeoutError: Nor did it end.
        """
        for line in (self.tests, self.candidates):
            line.receive(time.monotonic() + START_S)

    def interrupt(self) -> None:
        """Hangs up, from any thread, see ``Line.interrupt``."""
        for line in (self.tests, self.candidates):
            line.interrupt()

    def stop(self, patience_s: float = STOP_S) -> int:
        """Ends the servers and what they run, and removes their folder; returns the exit code.

        Args:
            patience_s: How long they may take to end by themselves before they are killed.
        """
        for line in (self.tests, self.candidates):
            line.close()
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._words = self.last_words()
        self._log.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        return code

    def last_words(self) -> str:
        """The last line that the servers wrote to their standard error."""
        if self._log.closed:
            return self._words
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""
