"""The parent's handle on one worker: two fork servers, the conversation about one program, and its verdict."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import asdict
from typing import Any

from .guest import wire
from .programs import Limits, Program, Status, Verdict
from .server_process import ServerProcess, WorkerLostError

GRACE_S = 1.0  # beyond the deadline, for killing the program and telling of it
PATIENCE_S = 0.2
MEMORY_SHARE = 0.8  # of the limit: a process that dies above it died of it
OUTCOME_BYTES = 1 << 16
TESTER_CPU_FACTOR, TESTER_MEMORY_MB = 2.0, 4096  # of the test: trusted code, that an odd answer may make slow
RECYCLE_AFTER = 5000  # programs, so that whatever a server may gather in its life stays small

Report = dict[str, Any]


class Worker:
    """Runs one program at a time. Used by one thread, except for ``interrupt``.

    Args:
        limits: What each program may use.
        level: The isolation, copied into each verdict.
        bwrap: The program that makes the namespaces; needed by the level ``namespace`` only.
    """

    def __init__(self, limits: Limits, level: str, bwrap: str | None = None) -> None:
        self._limits, self._level = limits, level
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

    def run(self, program: Program) -> Verdict:
        """Runs one program on the started servers.

        Raises:
            WorkerLostError: There was no answer; ``stop`` and ``start`` before the next program.
        """
        self._served += 1
        start = time.monotonic()
        deadline = start + self._limits.wall_s + GRACE_S
        try:
            outcome, candidate, tester = self._converse(program, deadline)
        except (OSError, wire.BadMessageError) as error:  # among them TimeoutError and BrokenPipeError
            words = "".join(server.last_words() for server in self.servers)
            raise WorkerLostError(f"a fork server did not answer: {error}{words}") from error
        status, detail = decide(outcome, candidate, tester, self._limits)
        calls = 0 if outcome is None else int(outcome["calls"])
        return Verdict(status, detail, candidate["cpu_s"], time.monotonic() - start, self._level, calls)

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

    def _converse(self, program: Program, deadline: float) -> tuple[wire.Message | None, Report, Report]:
        """Connects a candidate with its tester; returns the test's outcome, if any, and how both processes ended."""
        limits = asdict(self._limits)
        test_limits = limits | {
            "cpu_s": TESTER_CPU_FACTOR * self._limits.cpu_s,
            "memory_mb": max(TESTER_MEMORY_MB, self._limits.memory_mb),
        }
        job = asdict(program) | {"limits": test_limits}
        with contextlib.ExitStack() as stack:
            theirs, ours = (stack.enter_context(end) for end in socket.socketpair())
            reader, writer = os.pipe()
            stack.callback(os.close, reader)
            try:
                self._candidates.send({"limits": limits}, [theirs.fileno()])
                self._testers.send(job, [ours.fileno(), writer])
            finally:
                os.close(writer)
                theirs.close()
                ours.close()
            outcome = _read_outcome(reader, deadline)
        # A candidate that hung up is most often about to end: how it ends is worth waiting for.
        hung_up = outcome is not None and outcome["status"] == "crashed"
        for server in self.servers:
            server.send({"patience_s": PATIENCE_S if hung_up else 0.0})
        return outcome, self._candidates.receive(deadline), self._testers.receive(deadline)


def _read_outcome(reader: int, deadline: float) -> wire.Message | None:
    """What the tester wrote; None if it ended without a word."""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    text = b""
    while not text.endswith(b"\n"):
        if not poller.poll(max(deadline - time.monotonic(), 0.0) * 1000):
            raise TimeoutError("no outcome in time")
        chunk = os.read(reader, OUTCOME_BYTES)
        if not chunk:
            return None
        text += chunk
    return wire.parse(text)


def decide(outcome: wire.Message | None, candidate: Report, tester: Report, limits: Limits) -> tuple[Status, str]:
    """Status and detail from what the test found and how the two processes ended.

    Raises:
        WorkerLostError: The tester ended without an outcome, which says nothing about the program.
    """
    if outcome is not None and outcome["status"] != "crashed":
        return Status(outcome["status"]), outcome["detail"]
    if "wall" in (candidate["reason"], tester["reason"]):
        return Status.TIMEOUT, f"over {limits.wall_s:g} s of wall time"
    if candidate["reason"] == "cpu":
        return Status.TIMEOUT, f"over {limits.cpu_s:g} s of CPU time"
    if tester["reason"] == "cpu":
        return Status.TIMEOUT, f"over {TESTER_CPU_FACTOR * limits.cpu_s:g} s of CPU time in the test"
    if outcome is None:
        raise WorkerLostError(f"the test's process ended without an outcome (exit code {tester['code']})")
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
