"""How far a reward can be trusted: R^2 between binned reward and binned true score (PF-PPO, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Binning = Literal["quantile", "width"]

# Numbers of a chunk of resamples held in memory at one time: 32 MiB.
_CHUNK = 1 << 22


class RSquared(NamedTuple):
    """A line fitted through one point (mean reward, mean true score) a bin.

    Args:
        value: R^2 of the fit; NaN where fewer than two different points are left.
        low: 2.5 % quantile over bootstrap resamples.
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
    groups: Tensor | None = None,
) -> RSquared:
    """Group responses by similar reward and ask how well a line through the groups explains their true score.

    The paper says neither how it bins nor whether bins are weighted; here every bin that is not empty is one point of
    weight 1, as its formula reads. The value depends on the bins, and on the range of rewards: compare strategies under
    the same settings only. Responses of equal reward that a border between bins parts are each taken at their mean
    score, so that the order of the responses has no part in it.

    The interval is the bootstrap's percentile interval over ``groups``: a task's responses are not independent, so
    that resampling them one by one would claim to know more than is known. Value and interval err on the low side where
    a bin holds few responses, because what its mean is off by chance counts as distance from the line.

    Args:
        rewards: ``[M]`` rewards of M responses.
        scores: ``[M]`` true scores, for instance 1.0 where the tests pass.
        bins: number of bins.
        binning: ``quantile`` gives bins of equal count, ``width`` of equal width.
        bootstrap: resamples for the interval; 0 leaves ``low`` and ``high`` at the value.
        seed: of the resamples.
        groups: ``[M]`` int64, the task that each response answers; ``None`` takes every response as its own.

    Raises:
        ValueError: on different shapes, fewer than 2 bins, or fewer responses than bins.
    """
    _check(rewards, scores, bins, binning, groups)
    rewards, scores = rewards.double(), scores.double()
    origin = rewards.mean()  # sums of squares of large rewards that hardly differ would lose them
    levels, level = torch.unique(rewards - origin, return_inverse=True)
    once = torch.ones(1, len(rewards), dtype=torch.float64)
    points = _points(once, levels, level, scores, bins, binning)
    value, slope, middle = (float(number) for number in _fit(*points))
    low = high = value
    if bootstrap > 0:
        weights = resamples(torch.arange(len(rewards)) if groups is None else groups, bootstrap, seed)
        draws = torch.cat([_fit(*_points(part, levels, level, scores, bins, binning))[0] for part in weights])
        low, high = percentiles(draws, value)
    means, counts = (points[0][0] + origin, points[1][0]), points[2][0]
    filled = counts > 0
    return RSquared(
        value, low, high, slope, middle - slope * float(origin), means[0][filled], means[1][filled], counts[filled]
    )


def resamples(groups: Tensor, bootstrap: int, seed: int) -> Iterator[Tensor]:
    """Bootstrap resamples of whole groups, some at a time: ``[R, M]`` how often each row is in each of R resamples.

    Args:
        groups: ``[M]`` int64 labels.
        bootstrap: resamples in all.
        seed: of the draws.
    """
    group = torch.unique(groups, return_inverse=True)[1]
    number = int(group.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, bootstrap, max(1, _CHUNK // len(groups))):
        size = min(bootstrap - start, max(1, _CHUNK // len(groups)))
        drawn = torch.randint(number, (size, number), generator=generator)
        counts = torch.zeros(size, number, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))[:, group]


def percentiles(draws: Tensor, value: float) -> tuple[float, float]:
    """The middle 95 % of a bootstrap's draws; ``value`` twice where none of them is a number."""
    finite = draws[draws.isfinite()]
    if not len(finite):
        return value, value
    low, high = torch.quantile(finite, torch.tensor([0.025, 0.975], dtype=finite.dtype)).tolist()
    return low, high


def _check(rewards: Tensor, scores: Tensor, bins: int, binning: str, groups: Tensor | None) -> None:
    if rewards.dim() != 1 or rewards.shape != scores.shape:
        raise ValueError(f"rewards and scores must be vectors of one length, got {rewards.shape} and {scores.shape}")
    if groups is not None and groups.shape != rewards.shape:
        raise ValueError(f"groups must name the task of each of {len(rewards)} responses, got {groups.shape}")
    if bins < 2 or rewards.shape[0] < bins:
        raise ValueError(f"need at least 2 bins and as many responses as bins, got {bins} and {rewards.shape[0]}")
    if binning not in get_args(Binning):
        raise ValueError(f"binning must be 'quantile' or 'width', got {binning!r}")
    if not (rewards.isfinite().all() and scores.isfinite().all()):
        raise ValueError("rewards and scores must be finite; leave out the responses that have none")


def _points(
    weights: Tensor, levels: Tensor, level: Tensor, scores: Tensor, bins: int, binning: Binning
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean reward, mean score and count of each bin of each resample, ``[R, bins]``; 0 in an empty bin.

    Args:
        weights: ``[R, M]`` how often each response is in each resample.
        levels: ``[K]`` the different rewards, rising.
        level: ``[M]`` which of them each response has.
        scores: ``[M]``.
        bins: number of bins.
        binning: how they are cut.
    """
    empty = torch.zeros(len(weights), len(levels), dtype=torch.float64)
    count = empty.index_add(1, level, weights)
    score = empty.index_add(1, level, weights * scores)
    cut = _equal_counts if binning == "quantile" else _equal_widths
    counts, rewards, sums = cut(count, levels, score, bins)
    filled = counts.clamp(min=1)
    return rewards / filled, sums / filled, counts.long()


def _equal_counts(count: Tensor, levels: Tensor, score: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count, sum of rewards and of scores a bin: response p of n, by rising reward, is in bin ``p * bins // n``."""
    upto = torch.nn.functional.pad(count.cumsum(1), (1, 0))
    numbers = torch.arange(bins + 1, dtype=torch.float64)
    borders = (upto[:, -1:] * numbers / bins).ceil()
    inside = torch.searchsorted(upto[:, 1:].contiguous(), borders).clamp(max=len(levels) - 1)
    rest = borders - upto.gather(1, inside)  # responses of a level that lie before the border
    sums = []
    for values, each in ((count * levels, levels.expand_as(count)), (score, score / count.clamp(min=1))):
        before = torch.nn.functional.pad(values.cumsum(1), (1, 0))
        sums.append((before.gather(1, inside) + rest * each.gather(1, inside)).diff(dim=1))
    return borders.diff(dim=1), sums[0], sums[1]


def _equal_widths(count: Tensor, levels: Tensor, score: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same for bins that cut each resample's own range of rewards into equal parts."""
    there = count > 0
    low = levels.expand_as(count).masked_fill(~there, float("inf")).amin(dim=1, keepdim=True)
    high = levels.expand_as(count).masked_fill(~there, float("-inf")).amax(dim=1, keepdim=True)
    span = (high - low).clamp(min=torch.finfo(levels.dtype).tiny)
    index = ((levels - low) / span * bins).clamp(0, bins - 1).long()
    empty = torch.zeros(len(count), bins, dtype=torch.float64)
    counts, rewards, sums = (empty.scatter_add(1, index, values) for values in (count, count * levels, score))
    return counts, rewards, sums


def _fit(x: Tensor, y: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """R^2, slope and intercept, each ``[R]``, of the least-squares lines through the filled bins ``[R, bins]``."""
    filled = (counts > 0).double()
    number = filled.sum(dim=1, keepdim=True)
    mean_x, mean_y = ((values * filled).sum(dim=1, keepdim=True) / number for values in (x, y))
    centred_x, centred_y = (x - mean_x) * filled, (y - mean_y) * filled
    spread_x, spread_y, shared = (
        (left * right).sum(dim=1)
        for left, right in ((centred_x, centred_x), (centred_y, centred_y), (centred_x, centred_y))
    )
    # What rounding leaves of points that are all the same is no spread.
    lines = (spread_x > 1e-24 * (x * x).sum(dim=1)) & (spread_y > 1e-24 * (y * y).sum(dim=1))
    nothing = torch.full_like(shared, torch.nan)
    slope = torch.where(lines, shared / spread_x, nothing)
    value = torch.where(lines, shared * shared / (spread_x * spread_y), nothing)  # 1 - SSE / SST of such a line
    return value, slope, mean_y.squeeze(1) - slope * mean_x.squeeze(1)
