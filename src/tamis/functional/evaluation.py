"""pass@k, and the error bars of a rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Resampled problems held in memory at one time: 32 MiB of indices.
_CHUNK = 1 << 22


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def pass_at_k(n: int | Sequence[int], c: int | Sequence[int], k: int) -> float:
    """Unbiased pass@k (Chen et al. 2021, eq. 1): mean over problems of ``1 - C(n-c, k) / C(n, k)``.

    Args:
        n: samples drawn of each problem; a plain number for one problem.
        c: samples of each problem that passed.
        k: how many tries a user has.

    Raises:
        ValueError: if k exceeds a problem's number of samples, or c is not within 0..n.
    """
    estimates = pass_at_k_per_problem(n, c, k).tolist()
    return float(sum(estimates) / len(estimates))


def pass_at_k_per_problem(n: int | Sequence[int], c: int | Sequence[int], k: int) -> Tensor:
    """``[P]`` the terms of the mean that `pass_at_k` is, in double precision; `bootstrap_interval` takes them.

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
    return torch.tensor(estimates, dtype=torch.float64)


def bootstrap_interval(
    per_problem_values: Tensor | Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of the mean over problems: problems are drawn again with replacement (Efron 1979).

    It says how much the number could move with other problems of the same kind; that the samples of one problem are
    few is in its values already. If all values are equal, it has no width: then it knows of no other problems.

    Args:
        per_problem_values: ``[P]`` one number a problem, as `pass_at_k_per_problem` gives.
        confidence: share of the resampled means inside, between 0 and 1.
        resamples: how often P problems are drawn.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        ValueError: without problems, or for a confidence or a number of resamples that make no sense.
    """
    values = torch.as_tensor(per_problem_values, dtype=torch.float64, device="cpu").flatten()
    if not len(values):
        raise ValueError("there is no interval of no problems; give one value or more")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence must lie between 0 and 1 and resamples be at least 1, got {confidence} and {resamples}"
        )
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _CHUNK // len(values))
    means = [
        values[torch.randint(len(values), (min(rows, resamples - done), len(values)), generator=generator)].mean(dim=1)
        for done in range(0, resamples, rows)
    ]
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), ends).tolist()
    return Interval(low, high)


def binomial_standard_error(rate: float, n: int) -> float:
    """Standard error of a pass rate over ``n`` problems: ``sqrt(p (1 - p) / n)``, a fraction like ``rate``."""
    return float((rate * (1 - rate) / n) ** 0.5)


def wilson_interval(rate: float, n: float, z: float = 1.959964) -> Interval:
    """Interval of a pass rate over ``n`` independent tries (Wilson 1927), inside 0..1 also where the rate is 0 or 1.

    The ends are ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.

    Args:
        rate: share p that passed, 0 to 1.
        n: tries.
        z: standard errors; 1.96 for 95 %.

    Raises:
        ValueError: without tries, or for a rate that is none.
    """
    if n <= 0 or not 0 <= rate <= 1:
        raise ValueError(f"a rate lies between 0 and 1 and has at least one try, got {rate} of {n}")
    centre = rate + z * z / (2 * n)
    half = z * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    # Rounding may leave -1e-17 of the end at a rate of 0.
    return Interval(max((centre - half) / (1 + z * z / n), 0.0), min((centre + half) / (1 + z * z / n), 1.0))
