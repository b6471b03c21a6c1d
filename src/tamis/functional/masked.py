"""Means, whitening and loss aggregation over the valid steps of padded batches. B: rows, T: steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LossAggregation = Literal["token_mean", "seq_mean", "seq_sum"]


class Denominators(NamedTuple):
    """What sums over a batch are divided by, so that parts of it add up to the mean over all of it.

    Args:
        steps: number of valid steps, a scalar of at least 1.
        rows: number of rows, a scalar of at least 1.

    Rows that count more than once, or not at all, do so here too.
    """

    steps: Tensor
    rows: Tensor


def _check_same_shape(values: Tensor, mask: Tensor) -> None:
    if values.shape != mask.shape:
        raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} must have the same shape")


def weigh(values: Tensor, weights: Tensor | None) -> Tensor:
    """``[B, T]`` values, or a mask, times ``[B]`` weights of the rows; the values themselves without weights."""
    return values if weights is None else values * weights.unsqueeze(1)


def masked_mean(values: Tensor, mask: Tensor, steps: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Mean of ``values[mask]``; 0 where nothing is valid.

    Args:
        values: any shape, ``[B, T]`` with weights.
        mask: same shape, bool, True = counts.
        steps: divide by this number instead of the valid ones here: the steps of a batch of which this is a part.
        weights: ``[B]`` how often each row counts; ``None`` is once each.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_same_shape(values, mask)
    total = weigh(torch.where(mask, values, 0.0), weights).sum()
    return total / (weigh(mask, weights).sum().clamp(min=1) if steps is None else steps)


def masked_whiten(
    values: Tensor,
    mask: Tensor,
    shift_mean: bool = True,
    eps: float = 1e-8,
    total: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Bring the valid values to mean 0 (unless ``shift_mean`` is False, which keeps the mean) and variance 1.

    The variance is the biased one. With at most one valid value there is no spread to divide by: it is only shifted.
    Values off the mask become 0.

    Args:
        values: any shape, ``[B, T]`` with weights.
        mask: same shape, bool, True = counts.
        shift_mean: subtract the mean.
        eps: added to the variance.
        total: sums a scalar over all processes, where each holds a part of the values; ``None`` for one process.
        weights: ``[B]`` how often each row counts in mean and variance; ``None`` is once each.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_same_shape(values, mask)
    total = total or (lambda part: part)
    count = total(weigh(mask, weights).sum())
    steps = count.clamp(min=1)
    # The mean first and then the squares about it: a sum of plain squares would lose the digits of a large mean.
    mean = total(weigh(torch.where(mask, values, 0.0), weights).sum()) / steps
    variance = total(weigh(torch.where(mask, (values - mean) ** 2, 0.0), weights).sum()) / steps
    scale = torch.where(count > 1, torch.rsqrt(variance + eps), torch.ones_like(variance))
    whitened = (values - mean) * scale + (0.0 if shift_mean else mean)
    return torch.where(mask, whitened, 0.0)


def aggregate_loss(
    loss: Tensor,
    mask: Tensor,
    aggregation: LossAggregation = "seq_mean",
    denominators: Denominators | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Turn a loss per step into a scalar.

    Args:
        loss: ``[B, T]``.
        mask: ``[B, T]`` bool, True = counts.
        aggregation: ``token_mean`` weighs every valid step alike; ``seq_mean`` takes each row's mean, then the mean
            over rows (the PF-PPO authors' code); ``seq_sum`` each row's sum, then the mean over rows (the joint
            log-probability of the policy gradient theorem). Rows without a valid step count as 0.
        denominators: of the whole batch, where this is a part of one; the parts' losses then add up to the whole's.
        weights: ``[B]`` how often each row counts, as if it stood in the batch so many times; ``None`` is once each.

    Raises:
        ValueError: on different shapes or an unknown aggregation.
    """
    _check_same_shape(loss, mask)
    if aggregation == "token_mean":
        return masked_mean(loss, mask, None if denominators is None else denominators.steps, weights)
    rows = weigh(torch.where(mask, loss, 0.0), weights).sum(dim=1)
    if aggregation not in ("seq_mean", "seq_sum"):
        raise ValueError(f"aggregation must be 'token_mean', 'seq_mean' or 'seq_sum', got {aggregation!r}")
    if aggregation == "seq_mean":
        rows = rows / mask.sum(dim=1).clamp(min=1)
    if denominators is not None:
        return rows.sum() / denominators.rows
    return rows.mean() if weights is None else rows.sum() / weights.sum().clamp(min=1)
