"""What happens when an accelerator's memory runs out where nothing is learned: half as many rows at a time, once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Result = TypeVar("Result")


class RowsAtATime:
    """How many rows a pass without gradients takes; halved once in a run, the first time that memory runs out.

    Args:
        rows: at a time; ``None`` is all.
        option: that this number comes from.
        work: what is done to the rows, for messages.
        ways_out: what else saves memory here.
    """

    def __init__(self, rows: int | None, option: str, work: str, ways_out: str) -> None:
        self.rows, self.option, self.work, self.ways_out = rows, option, work, ways_out
        self.halved = False

    def run(self, do: Callable[[int | None], Result], total: int, least: int, model: nn.Module) -> Result:
        """Do the work, once more with half as many rows at a time if memory runs out.

        Args:
            do: the work, of the rows at a time.
            total: rows that there are.
            least: rows that stay together in any case.
            model: does the work. One that is spread over ranks needs all of them for every pass, so that none may take
                passes of its own.

        Raises:
            torch.OutOfMemoryError: if that does not help, or cannot be tried; with the way out.
        """
        try:
            return do(self.rows)
        except torch.OutOfMemoryError as error:
            told = str(error).strip()
            now = min(self.rows or total, total)
            spread = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
            if self.halved or spread or now <= least:
                raise torch.OutOfMemoryError(self._way_out(now, told)) from error
        # Here, behind the handler, nothing holds the failed pass's memory any more.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.rows, self.halved = max(now // 2, 1), True
        warnings.warn(
            f"out of memory while {self.work} {now} rows at a time; from here on {self.rows} at a time, which changes "
            f"no draw and takes longer. Set {self.option} to that, or lower, and the next run begins with it",
            stacklevel=2,
        )
        try:
            return do(self.rows)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(self._way_out(self.rows, str(error).strip())) from error

    def _way_out(self, rows: int, told: str) -> str:
        again = ", after their number had been halved" if self.halved else ""
        return (
            f"out of memory while {self.work} {rows} rows at a time{again}; lower {self.option} or {self.ways_out}. "
            f"What the device says: {told}"
        )
