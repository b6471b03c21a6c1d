"""Processes that must run the same number of forwards, because each holds a part of every weight."""

from __future__ import annotations

import torch
from torch import Tensor

from ..processes import max_over_ranks, place, sum_over_ranks


def left_anywhere(left: Tensor) -> int:
    """The most rows that any process has still to decode."""
    return int(max_over_ranks(left))


def check_equal_prompts(prompt_mask: Tensor) -> None:
    """Refuse what would have one process wait for the others for ever.

    Raises:
        ValueError: in every process, if they have different numbers of prompts.
    """
    rank, ranks = place()
    counts = torch.zeros(ranks, dtype=torch.int64, device=prompt_mask.device)
    counts[rank] = len(prompt_mask)
    everywhere = sum_over_ranks(counts).tolist()
    if len(set(everywhere)) != 1:
        raise ValueError(
            f"the processes have {everywhere} prompts to answer; with sharded weights each needs the same number: "
            "choose a batch size that gives every process equal batches"
        )
