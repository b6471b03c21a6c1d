"""The parent's handle on one worker: two servers, the conversation about one program, and its verdict."""

from __future__ import annotations

import signal
import socket
import time
from typing import Any

from .guest import wire
from .programs import Limits, Program, Status, Verdict
from .server_process import ServerProcess, WorkerLostError

GRACE_S = 1.0  # beyond the deadline, for killing the program and telling of it
PATIENCE_S = 0.2
MEMORY_SHARE = 0.8  # of the limit: a process that dies above it died of it
TEST_CPU_FACTOR = 2.0  # of the program's: a test is trusted, but an odd answer may make it slow
RECYCLE_AFTER = 5000  # programs, so that whatever a server may gather in its life stays small

Report = dict[str, Any]


class Worker:
    """Runs one program at a time. Used by one thread at a time, except for ``interrupt``.

    Args:
        level: The isolation, copied into each verdict.
        bwrap: The program that makes the namespaces; needed by the level ``namespace`` only.
    """

    def __init__(self, level: str, bwrap: str | None = None) -> None:
        self.level = level
        self._candidates = ServerProcess("candidate", level, bwrap)
        self._testers = ServerProcess("tester", level, bwrap)
        self._served = 0

    @property
    def servers(self) -> tuple[ServerProcess, ServerProcess]:
        """The server of candidates and the server of testers."""
        return self._candidates, self._testers

    def start(self) -> None:
        """Starts the servers unless they run.

        Raises:
            WorkerLostError: One could not start; the message says why.
            OSError: The interpreter or the temporary folder could not be had.
        """
        if self._served >= RECYCLE_AFTER:
            self.stop()
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready()

    def run(self, program: Program, limits: Limits) -> Verdict:
        """Runs one program on the started servers.

        Raises:
            WorkerLostError: There was no answer; ``stop`` and ``start`` before the next program.
        """
        self._served += 1
        start = time.monotonic()
        try:
            outcome, candidate = self._converse(program, limits, start + limits.wall_s + GRACE_S)
        except (OSError, wire.BadMessageError) as error:  # among them TimeoutError and BrokenPipeError
            words = "".join(server.last_words() for server in self.servers)
            raise WorkerLostError(f"a server did not answer: {error}{words}") from error
        status, detail = decide(outcome, candidate, limits)
        return Verdict(status, detail, candidate["cpu_s"], time.monotonic() - start, self.level, int(outcome["calls"]))

    def interrupt(self) -> None:
        """Hangs up, from any thread: a waiting ``run`` raises, and the servers kill their programs and end."""
        for server in self.servers:
            server.interrupt()

    def stop(self) -> None:
        """Ends the servers and what they run. May be called twice."""
        self._served = 0
        for server in self.servers:
            server.hang_up()
        for server in self.servers:
            server.stop()

    def _converse(self, program: Program, limits: Limits, deadline: float) -> tuple[Report, Report]:
        """Connects a candidate with its test; returns what the test found, and how the candidate ended."""
        known = vars(limits)
        theirs, ours = socket.socketpair()
        with theirs, ours:
            self._candidates.send({"limits": known}, [theirs.fileno()])
            job = vars(program) | {"limits": known | {"test_cpu_s": TEST_CPU_FACTOR * limits.cpu_s}}
            self._testers.send(job, [ours.fileno()])
        outcome = self._test_outcome(limits, deadline - GRACE_S / 2)
        # A candidate that hung up is most often about to end: how it ends is worth waiting for.
        self._candidates.send({"patience_s": PATIENCE_S if outcome["status"] == "crashed" else 0.0})
        return outcome, self._candidates.receive(deadline)

    def _test_outcome(self, limits: Limits, deadline: float) -> Report:
        try:
            outcome = self._testers.receive(deadline)
        except TimeoutError:  # the candidate has been ended by now, so it is the test itself
            self._testers.stop(patience_s=0.0)
            return {"status": "timeout", "detail": f"over {limits.wall_s:g} s of wall time in the test", "calls": 0}
        except WorkerLostError:
            # What the timer of its CPU time sends, as it is told by the system, and by bubblewrap in the way of shells.
            if self._testers.stop() not in (-signal.SIGPROF, 128 + signal.SIGPROF):
                raise
            limit = TEST_CPU_FACTOR * limits.cpu_s
            return {"status": "timeout", "detail": f"over {limit:g} s of CPU time in the test", "calls": 0}
        if outcome["spent"]:
            self._testers.modules += outcome["imported"]
            self._testers.stop(patience_s=0.0)
        return outcome


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
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Status.CRASHED, f"ended without an answer ({how})"
