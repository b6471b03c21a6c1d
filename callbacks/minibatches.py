"""How updates cut a rollout into optimiser steps, and average what the steps report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..rollout import Rollout


def minibatches(rollout: Rollout, size: int | None, generator: torch.Generator) -> Iterator[Rollout]:
    """Shuffle the rows and cut them into minibatches of ``size``; ``None`` is one minibatch of all rows, in order.

    Raises:
        ValueError: if the number of rows is not divisible by ``size``.
    """
    if size is None or size == len(rollout):
        yield rollout
        return
    if size < 1 or len(rollout) % size:
        raise ValueError(
            f"{len(rollout)} kept rows an iteration cannot be cut into minibatches of {size}; "
            f"choose a minibatch_size that divides {len(rollout)}, or null for one step on all rows"
        )
    order = torch.randperm(len(rollout), generator=generator, device=generator.device)
    yield from rollout.select(order).split(len(rollout) // size)


def mean_stats(steps: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each statistic over the steps that report it."""
    names = {name: None for step in steps for name in step}
    return {name: torch.stack([step[name].float() for step in steps if name in step]).mean() for name in names}
