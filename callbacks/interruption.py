"""Ctrl-C and SIGTERM as a wish that a run can grant at a moment when its state is whole."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_TOLD = {
    signal.SIGINT: "Ctrl-C: the run ends after this iteration, with a checkpoint. Once more ends it at once, without.",
    signal.SIGTERM: "SIGTERM: the run ends after this iteration, with a checkpoint.",
    signal.SIGUSR1: "SIGUSR1: the run ends after this iteration, with a checkpoint.",
}


class Interruption:
    """Listens for the signals that ask a run to end. Half an iteration is no state to go on from.

    On SLURM, SIGUSR1 is one of them: it is how a job is told that its time is nearly over.
    """

    def __init__(self) -> None:
        #: Number of the signal that has come, 0 before.
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the signals over, where that is possible: in the main thread."""
        self.signal = 0
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        wanted = [signal.SIGINT, signal.SIGTERM]
        if "SLURM_JOB_ID" in os.environ:
            wanted.append(signal.SIGUSR1)
        self._previous = {number: signal.signal(number, self._receive) for number in wanted}

    def forget(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signal:
            # Not print: a signal may come in the middle of another one.
            os.write(2, f"\n{_TOLD[signal.Signals(number)]}\n".encode())
        self.signal = number
