"""How far a reward can be trusted: R^2 between binned reward and binned true score (PF-PPO, section 4)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Binning = Literal["quantile", "width"]


class RSquared(NamedTuple):
    """A line fitted through one point (mean reward, mean true score) a bin.

    Args:
        value: R^2 of the fit; NaN where fewer than two different points are left.
        low: 2.5 % quantile over bootstrap resamples of the responses.
        high: 97.5 % quantile.
        slope: of the line, score per unit of reward.
        intercept: of the line.
        bin_rewards: ``[bins]`` mean reward of each bin that is not empty.
        bin_scores: ``[bins]`` mean true score of each.
        bin_counts: ``[bins]`` responses in each.
    """

    value: float
    low: float
    high: float
    slope: float
    intercept: float
    bin_rewards: Tensor
    bin_scores: Tensor
    bin_counts: Tensor


def r_squared(
    rewards: Tensor,
    scores: Tensor,
    bins: int = 20,
    binning: Binning = "quantile",
    bootstrap: int = 1000,
    seed: int = 0,
) -> RSquared:
    """Group responses by similar reward and ask how well a line through the groups explains their true score.

    The paper says neither how it bins nor whether bins are weighted; here every bin that is not empty is one point of
    weight 1, as its formula reads. The value depends on the bins: compare strategies under the same settings only.

    Args:
        rewards: ``[M]`` rewards of M responses.
        scores: ``[M]`` true scores, for instance 1.0 where the tests pass.
        bins: number of groups.
        binning: ``quantile`` gives bins of equal count, ``width`` of equal width.
        bootstrap: resamples for the interval; 0 leaves ``low`` and ``high`` at the value.
        seed: of the resamples.

    Raises:
        ValueError: on different shapes, fewer than 2 bins, or fewer responses than bins.
    """
    if rewards.dim() != 1 or rewards.shape != scores.shape:
        raise ValueError(f"rewards and scores must be vectors of one length, got {rewards.shape} and {scores.shape}")
    if bins < 2 or rewards.shape[0] < bins:
        raise ValueError(f"need at least 2 bins and as many responses as bins, got {bins} and {rewards.shape[0]}")
    rewards, scores = rewards.double(), scores.double()
    means = _bin_means(rewards, scores, bins, binning)
    value, slope, intercept = _fit(means[0], means[1])
    low = high = value
    if bootstrap > 0:
        generator = torch.Generator().manual_seed(seed)
        draws = []
        for _ in range(bootstrap):
            rows = torch.randint(rewards.shape[0], (rewards.shape[0],), generator=generator)
            draws.append(_fit(*_bin_means(rewards[rows], scores[rows], bins, binning)[:2])[0])
        finite = torch.tensor(draws, dtype=torch.float64)
        finite = finite[finite.isfinite()]
        if len(finite):
            low, high = torch.quantile(finite, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return RSquared(value, low, high, slope, intercept, *means)


def _bin_means(rewards: Tensor, scores: Tensor, bins: int, binning: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean reward, mean score and count of each bin that is not empty."""
    if binning == "quantile":
        index = torch.empty(len(rewards), dtype=torch.int64)
        index[rewards.argsort(stable=True)] = torch.arange(len(rewards)) * bins // len(rewards)
    elif binning == "width":
        span = (rewards.max() - rewards.min()).clamp(min=torch.finfo(rewards.dtype).tiny)
        index = ((rewards - rewards.min()) / span * bins).long().clamp(max=bins - 1)
    else:
        raise ValueError(f"binning must be 'quantile' or 'width', got {binning!r}")
    counts = torch.bincount(index, minlength=bins)
    filled = counts > 0
    sums = [torch.bincount(index, weights=values, minlength=bins) for values in (rewards, scores)]
    return sums[0][filled] / counts[filled], sums[1][filled] / counts[filled], counts[filled]


def _fit(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """R^2, slope and intercept of the least-squares line."""
    centred_x, centred_y = x - x.mean(), y - y.mean()
    spread_x, spread_y = float(centred_x @ centred_x), float(centred_y @ centred_y)
    if spread_x == 0 or spread_y == 0:
        return float("nan"), float("nan"), float("nan")
    slope = float(centred_x @ centred_y) / spread_x
    residual = centred_y - slope * centred_x
    return 1 - float(residual @ residual) / spread_y, slope, float(y.mean()) - slope * float(x.mean())
