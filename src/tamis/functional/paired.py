"""Two numbers of each of n things compared: mean difference, its standard error and z; and spreads over things."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """A mean difference and how sure it is.

    Args:
        mean: of the differences, in their unit.
        standard_error: of that mean, in the same unit; NaN for a single difference.
        z: mean in standard errors; 0 where all differences are 0, infinite where all are the same other number, NaN for
            a single difference.
    """

    mean: float
    standard_error: float
    z: float


def moments(values: Tensor) -> Tensor:
    """Count, sum and sum of squares over the first dimension, in double precision.

    Those of several processes add up to those of all their values, whatever number each has.

    Args:
        values: ``[n, ...]``.

    Returns:
        ``[3, ...]``, on the CPU, because not every device has doubles.
    """
    exact = values.detach().cpu().double()
    return torch.stack([torch.full_like(exact.sum(dim=0), len(exact)), exact.sum(dim=0), exact.square().sum(dim=0)])


def spread(sums: Tensor) -> Tensor:
    """``[...]`` standard deviation (n - 1 in the denominator) of what `moments` counted; NaN for n = 1.

    Args:
        sums: ``[3, ...]`` of `moments`.
    """
    count, total, squares = sums
    # Rounding may leave -1e-17 of the squares of equal numbers.
    variance: Tensor = (squares - total.square() / count).clamp(min=0) / (count - 1)
    return variance.sqrt()


def paired_difference(sums: Tensor) -> Difference:
    """Mean of n differences, ``s / sqrt(n)`` and their ratio.

    Each difference is of one thing measured twice (one image under two policies' masks), so that what distinguishes
    the things, which is usually far more, drops out of the standard error.

    Args:
        sums: ``[3]``, `moments` of the ``[n]`` differences.

    Raises:
        ValueError: if the sums are not of single numbers, or of none at all.
    """
    if sums.shape != (3,) or sums[0] < 1:
        raise ValueError(f"moments of one difference or more are needed, got {sums.tolist()}")
    mean = float(sums[1] / sums[0])
    error = float(spread(sums) / sums[0].sqrt())
    if error > 0 or math.isnan(error):
        return Difference(mean, error, mean / error)
    return Difference(mean, error, 0.0 if mean == 0 else math.copysign(math.inf, mean))
