"""Means, whitening and loss aggregation over the valid steps of padded batches. B: rows, T: steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LossAggregation = Literal["token_mean", "seq_mean", "seq_sum"]


def _check_same_shape(values: Tensor, mask: Tensor) -> None:
    if values.shape != mask.shape:
        raise ValueError(f"values {tuple(values.shape)} and mask {tuple(mask.shape)} must have the same shape")


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values[mask]``; 0 where nothing is valid.

    Args:
        values: any shape.
        mask: same shape, bool, True = counts.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_same_shape(values, mask)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def masked_whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Bring the valid values to mean 0 (unless ``shift_mean`` is False, which keeps the mean) and variance 1.

    The variance is the biased one. With at most one valid value there is no spread to divide by: it is only shifted.
    Values off the mask become 0.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_same_shape(values, mask)
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    scale = torch.where(mask.sum() > 1, torch.rsqrt(variance + eps), torch.ones_like(variance))
    whitened = (values - mean) * scale + (0.0 if shift_mean else mean)
    return torch.where(mask, whitened, 0.0)


def aggregate_loss(loss: Tensor, mask: Tensor, aggregation: LossAggregation = "seq_mean") -> Tensor:
    """Turn a loss per step into a scalar.

    Args:
        loss: ``[B, T]``.
        mask: ``[B, T]`` bool, True = counts.
        aggregation: ``token_mean`` weighs every valid step alike; ``seq_mean`` takes each row's mean, then the mean
            over rows (the PF-PPO authors' code); ``seq_sum`` each row's sum, then the mean over rows (the joint
            log-probability of the policy gradient theorem). Rows without a valid step count as 0.

    Raises:
        ValueError: on different shapes or an unknown aggregation.
    """
    _check_same_shape(loss, mask)
    if aggregation == "token_mean":
        return masked_mean(loss, mask)
    row_sums = torch.where(mask, loss, 0.0).sum(dim=1)
    if aggregation == "seq_sum":
        return row_sums.mean()
    if aggregation == "seq_mean":
        return (row_sums / mask.sum(dim=1).clamp(min=1)).mean()
    raise ValueError(f"aggregation must be 'token_mean', 'seq_mean' or 'seq_sum', got {aggregation!r}")
