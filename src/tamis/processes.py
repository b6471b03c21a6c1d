"""Numbers of all processes together. Where there is one process, they are its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def several_processes() -> bool:
    """Whether this run has others beside this process."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if not several_processes():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over all processes; the value itself where there is one."""
    return _over_ranks(value, torch.distributed.ReduceOp.SUM) if several_processes() else value


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean over all processes; the value itself where there is one."""
    return sum_over_ranks(value) / torch.distributed.get_world_size() if several_processes() else value


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest value of all processes; the value itself where there is one."""
    return _over_ranks(value, torch.distributed.ReduceOp.MAX) if several_processes() else value


def _over_ranks(value: Tensor, how: Any) -> Tensor:  # noqa: ANN401 - an enum only where torch has processes
    reduced = value.clone()
    torch.distributed.all_reduce(reduced, how)
    return reduced
