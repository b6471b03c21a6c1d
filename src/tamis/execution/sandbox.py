"""The one door through which model-written code is run."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from .bubblewrap import find_bubblewrap
from .levels import Isolation, open_worker
from .programs import Limits, Program, Status, Verdict
from .server_process import WorkerLostError
from .worker import Worker

ATTEMPTS = 2  # a lost worker is most often the machine's doing; twice in a row is worth telling
DEFAULT_LIMITS = Limits()

Job = tuple[Program, "Future[Verdict]"]


class SandboxClosedError(RuntimeError):
    """The sandbox was closed before, or while, a program was to run."""


class Sandbox:
    """Runs untrusted programs and judges them, each in two fresh processes: the candidate's and the test's.

    The verdict is reached where the candidate cannot be. The levels, which add up:

    - ``process``: limits on CPU time, memory, files; an empty environment. Protects from accidents, NOT from attacks:
      the candidate can read files, open sockets and kill processes of the same user.
    - ``seccomp``: the candidate can compute, start threads and answer, and nothing else: the kernel refuses every path,
      socket, process and signal. Modules of the standard library are loaded beforehand, by the imports in its text.
    - ``namespace``: besides, candidate and test run where there are no files but Python's own, no network and no other
      processes (needs bubblewrap).

    When this process ends without ``close``, or nobody has the sandbox any more, the workers end too.

    Args:
        workers: Programs that run at the same time; the number of free cores is a good choice.
        isolation: A level; ``auto`` takes ``namespace`` or ``seccomp``, whichever is found to work.
        limits: What each program may use.

    Raises:
        ValueError: ``workers`` is below 1, or ``isolation`` is not a known level.
        SandboxUnavailableError: The isolation is not to be had here; the message says why and what to do.
    """

    def __init__(self, workers: int = 2, isolation: Isolation = "auto", limits: Limits = DEFAULT_LIMITS) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; the sandbox needs at least 1.")
        self.limits = limits
        self._crew = _Crew(limits)
        self._crew.open(workers, isolation)
        self.level = self._crew.level
        # The threads have the crew and not this object, which is thereby known to be given up when it is.
        weakref.finalize(self, self._crew.close)
        if self.level == "process":
            warnings.warn(
                "isolation='process' is not a sandbox: programs can read your files, use the network and kill your "
                "processes. Run only what you trust.",
                stacklevel=2,
            )

    def run(self, program: Program) -> Verdict:
        """Runs one program. See ``run_many``."""
        return self.run_many([program])[0]

    def run_many(self, programs: Sequence[Program]) -> list[Verdict]:
        """Runs programs on all workers; identical ones are run once.

        Args:
            programs: What to run.

        Returns:
            One verdict for each program, in the same order.

        Raises:
            SandboxClosedError: The sandbox is closed, or was closed meanwhile.
            RuntimeError: Called in a fork of the process that made this sandbox.
            OSError: A fork server could not be started.
        """
        return self._crew.run(programs)

    def close(self) -> None:
        """Kills what runs and ends the workers; may be called twice. Returns when no process is left."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Crew:
    """The workers of a sandbox, each with the thread that drives it."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.level = limits, ""
        self._owner = os.getpid()
        self._closed = False
        self._lock = threading.Lock()  # no job may come behind the word that there are no more
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._workers: list[Worker] = []

    def open(self, workers: int, isolation: Isolation) -> None:
        """Finds out what level there is with the first worker, and starts a thread for each of them."""
        opened: Future[Worker] = Future()
        # One thread for the whole life of a worker: Linux ties a server's death to the THREAD that started it.
        self._threads = [threading.Thread(target=self._open, args=(isolation, opened), daemon=True)]
        self._threads[0].start()
        first = opened.result()
        self.level = first.level
        bwrap = find_bubblewrap() if self.level == "namespace" else None
        self._workers = [first, *(Worker(self.level, bwrap) for _ in range(workers - 1))]
        for worker in self._workers[1:]:
            self._threads.append(threading.Thread(target=self._drive, args=(worker,), daemon=True))
            self._threads[-1].start()

    def run(self, programs: Sequence[Program]) -> list[Verdict]:
        """See `Sandbox.run_many`."""
        if os.getpid() != self._owner:
            raise RuntimeError("This sandbox belongs to the process that forked this one; make a new one here.")
        verdicts: dict[Program, Future[Verdict]] = {}
        with self._lock:
            if self._closed:
                raise SandboxClosedError("This sandbox is closed; make a new one.")
            for program in programs:
                if program not in verdicts:
                    verdicts[program] = Future()
                    self._jobs.put((program, verdicts[program]))
        try:
            return [verdicts[program].result() for program in programs]
        finally:
            for verdict in verdicts.values():
                verdict.cancel()  # after Ctrl-C or an error, those that have not begun never will

    def close(self) -> None:
        """See `Sandbox.close`."""
        if os.getpid() != self._owner:
            return  # threads and servers are not this process's to end
        with self._lock:
            self._closed = True
        for worker in self._workers:
            self._jobs.put(None)
            worker.interrupt()
        for thread in self._threads:
            if thread is not threading.current_thread():  # which may be the one that lets go of the sandbox
                thread.join()

    def _open(self, isolation: Isolation, opened: Future[Worker]) -> None:
        """The life of the first worker's thread, which finds out what level there is."""
        try:
            worker = open_worker(isolation)
        except Exception as error:  # raised again by the constructor
            opened.set_exception(error)
            return
        opened.set_result(worker)
        self._drive(worker)

    def _drive(self, worker: Worker) -> None:
        """One thread's life: takes jobs from the shared queue and runs them on its own worker."""
        try:
            while (job := self._jobs.get()) is not None:
                program, verdict = job
                if not verdict.set_running_or_notify_cancel():
                    continue
                try:
                    verdict.set_result(self._judge(worker, program))
                except Exception as error:  # raised again by run_many, in the caller's thread
                    verdict.set_exception(error)
        finally:
            worker.stop()

    def _judge(self, worker: Worker, program: Program) -> Verdict:
        size = len(program.source.encode(errors="surrogatepass"))
        if size > self.limits.source_kb << 10:
            detail = f"the source has {size} bytes, over the limit of {self.limits.source_kb} KiB"
            return Verdict(Status.ERROR, detail, 0.0, 0.0, self.level)
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                worker.prepare(program)
                if not self._closed:  # asked after the start: from here on, close() can interrupt the worker
                    return worker.run(program, self.limits)
            except WorkerLostError as lost:
                reason = str(lost)
                worker.stop()
            if self._closed:
                raise SandboxClosedError("The sandbox was closed while programs were running.")
        return Verdict(Status.INTERNAL, f"{reason} ({ATTEMPTS} times)", 0.0, 0.0, self.level)
