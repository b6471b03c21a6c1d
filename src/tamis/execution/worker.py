"""The parent's handle on one worker: two servers, the conversation about one program, and its verdict."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from .guest import wire
from .imports import named_modules
from .programs import Limits, Program, Status, Verdict
from .server_process import ServerProcess, WorkerLostError

GRACE_S = 1.0  # beyond the deadline, for killing the program and telling of it
PATIENCE_S = 0.2
MEMORY_SHARE = 0.8  # of the limit: a process that dies above it died of it
TEST_CPU_FACTOR = 2.0  # of the program's: a test is trusted, but an odd answer may make it slow
RECYCLE_AFTER = 5000  # programs, so that whatever a server may gather in its life stays small

Report = dict[str, Any]
NOTHING_KNOWN: Report = {"reason": "lost", "cpu_s": 0.0}


class Worker:
    """Runs one program at a time. Used by one thread at a time, except for ``interrupt``.

    Args:
        level: The isolation, copied into each verdict.
        bwrap: The program that makes the namespaces; needed by the level ``namespace`` only.
    """

    def __init__(self, level: str, bwrap: str | None = None) -> None:
        self.level, self._bwrap = level, bwrap
        self._servers: ServerProcess | None = None
        self._test_modules: set[str] = set()  # that tests import, beside the usual
        self._program_modules: set[str] = set()
        self._served = 0

    def start(self) -> None:
        """Starts the servers unless they run.

        Raises:
            WorkerLostError: They could not start; the message says why.
            OSError: The interpreter or the temporary folder could not be had.
        """
        if self._served >= RECYCLE_AFTER:
            self.stop()
        if self._servers is None:
            self._servers = ServerProcess(self.level, self._bwrap, self._test_modules, self._program_modules)
            with self._loss_explained(self._servers):
                self._servers.wait_until_ready()

    def prepare(self, program: Program) -> None:
        """Starts the servers as the program needs them.

        Raises:
            WorkerLostError: They could not start; the message says why.
            OSError: The interpreter or the temporary folder could not be had.
        """
        missing = named_modules(program.source) - self._program_modules
        if missing and self.level != "process":  # where programs can open files, they import for themselves
            self._program_modules |= missing
            self.stop()
        self.start()

    def run(self, program: Program, limits: Limits) -> Verdict:
        """Runs one program on the started servers.

        Raises:
            WorkerLostError: There was no answer; ``stop`` and ``prepare`` before the next program.
        """
        if self._servers is None:
            raise WorkerLostError("the servers are not started")
        self._served += 1
        start = time.monotonic()
        with self._loss_explained(self._servers):
            outcome, candidate = self._converse(self._servers, program, limits, start + limits.wall_s + GRACE_S)
        if outcome["spent"]:
            self._test_modules |= set(outcome["imported"])
            self.stop()
        status, detail = decide(outcome, candidate, limits)
        return Verdict(status, detail, candidate["cpu_s"], time.monotonic() - start, self.level, int(outcome["calls"]))

    def interrupt(self) -> None:
        """Hangs up, from any thread: a waiting ``run`` raises, and the servers kill their programs and end."""
        servers = self._servers
        if servers is not None:
            servers.interrupt()

    def stop(self) -> int | None:
        """Ends the servers and what they run; returns their exit code. May be called twice."""
        servers, self._servers, self._served = self._servers, None, 0
        return None if servers is None else servers.stop()

    def last_words(self) -> str:
        """The last line that the servers wrote to their standard error."""
        return "" if self._servers is None else self._servers.last_words()

    @contextlib.contextmanager
    def _loss_explained(self, servers: ServerProcess) -> Iterator[None]:
        try:
            yield
        except (OSError, wire.BadMessageError, WorkerLostError) as error:  # among them TimeoutError, BrokenPipeError
            what = str(error) if isinstance(error, WorkerLostError) else f"a server did not answer: {error}"
            raise WorkerLostError(what + servers.last_words()) from error

    def _converse(
        self, servers: ServerProcess, program: Program, limits: Limits, deadline: float
    ) -> tuple[Report, Report]:
        """Connects a candidate with its test; returns what the test found, and how the candidate ended."""
        known = vars(limits)
        theirs, ours = socket.socketpair()
        with theirs, ours:
            servers.candidates.send({"limits": known}, [theirs.fileno()])
            job = vars(program) | {"limits": known | {"test_cpu_s": TEST_CPU_FACTOR * limits.cpu_s}}
            servers.tests.send(job, [ours.fileno()])
        try:
            outcome = servers.tests.receive(deadline - GRACE_S / 2)
        except TimeoutError:  # the candidate has been ended by now, so it is the test itself
            return _overrun(f"over {limits.wall_s:g} s of wall time in the test"), NOTHING_KNOWN
        except WorkerLostError:
            # What the timer of its CPU time sends, as it is told by the system, and by bubblewrap in the way of shells.
            if self.stop() not in (-signal.SIGPROF, 128 + signal.SIGPROF):
                raise
            return _overrun(f"over {TEST_CPU_FACTOR * limits.cpu_s:g} s of CPU time in the test"), NOTHING_KNOWN
        # A candidate that hung up is most often about to end: how it ends is worth waiting for.
        servers.candidates.send({"patience_s": PATIENCE_S if outcome["status"] == "crashed" else 0.0})
        return outcome, servers.candidates.receive(deadline)


def _overrun(detail: str) -> Report:
    return {"status": "timeout", "detail": detail, "calls": 0, "spent": True, "imported": []}


def decide(outcome: Report, candidate: Report, limits: Limits) -> tuple[Status, str]:
    """Status and detail from what the test found and, where it was left alone, from how the candidate ended."""
    if outcome["status"] != "crashed":
        return Status(outcome["status"]), outcome["detail"]
    if candidate["reason"] == "wall":
        return Status.TIMEOUT, f"over {limits.wall_s:g} s of wall time"
    if candidate["reason"] == "cpu":
        return Status.TIMEOUT, f"over {limits.cpu_s:g} s of CPU time"
    return (Status.CRASHED, outcome["detail"]) if outcome["detail"] else _how_it_ended(candidate, limits)


def _how_it_ended(candidate: Report, limits: Limits) -> tuple[Status, str]:
    code, peak_mb = candidate["code"], candidate["peak_mb"]
    if code in (-signal.SIGXCPU, -signal.SIGKILL) and candidate["cpu_s"] >= limits.cpu_s:
        return Status.TIMEOUT, f"over {limits.cpu_s:g} s of CPU time"
    if peak_mb >= MEMORY_SHARE * limits.memory_mb:
        return Status.MEMORY, f"ended without an answer at {peak_mb:.0f} MiB"
    if candidate["reason"] == "stopped":
        return Status.CRASHED, "hung up on the test"
    names = {number.value: number.name for number in signal.Signals}  # the real-time signals between have none
    how = f"signal {names.get(-code, -code)}" if code < 0 else f"exit code {code}"
    return Status.CRASHED, f"ended without an answer ({how})"
