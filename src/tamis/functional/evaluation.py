"""pass@k, and the error bars of a rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pass_at_k(n: int | Sequence[int], c: int | Sequence[int], k: int) -> float:
    """Unbiased pass@k (Chen et al. 2021, eq. 1): mean over problems of ``1 - C(n-c, k) / C(n, k)``.

    Args:
        n: samples drawn of each problem; a plain number for one problem.
        c: samples of each problem that passed.
        k: how many tries a user has.

    Raises:
        ValueError: if k exceeds a problem's number of samples, or c is not within 0..n.
    """
    n, c = ([value] if isinstance(value, int) else value for value in (n, c))
    if len(n) != len(c) or not len(n):
        raise ValueError(f"n and c need one entry a problem, got {len(n)} and {len(c)}")
    estimates = []
    for total, correct in zip(n, c, strict=True):
        if not 1 <= k <= total:
            raise ValueError(f"pass@{k} cannot be estimated from {total} samples; draw at least {k} of each problem")
        if not 0 <= correct <= total:
            raise ValueError(f"{correct} correct samples of {total} is impossible")
        misses = torch.arange(total - correct + 1, total + 1, dtype=torch.float64)
        # Product form of the ratio of binomials: no large factorials. It is 0 as soon as n - c < k.
        estimates.append(1.0 if total - correct < k else 1.0 - float(torch.prod(1.0 - k / misses)))
    return sum(estimates) / len(estimates)


def binomial_standard_error(rate: float, n: int) -> float:
    """Standard error of a pass rate over ``n`` problems: ``sqrt(p (1 - p) / n)``, a fraction like ``rate``."""
    return float((rate * (1 - rate) / n) ** 0.5)
