"""Whether reward and true score put responses into one order: Kendall's tau-b and the area under the ROC curve."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .reliability import percentiles, resamples

# Pairs of responses compared at one time: 32 MiB.
_CHUNK = 1 << 22


class Estimate(NamedTuple):
    """A number with the ends of its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


class RankAgreement(NamedTuple):
    """How far reward and true score agree on which of two responses is the better one.

    Args:
        tau: Kendall's tau-b over all pairs.
        auc: chance that of two responses of different score the better one has the higher reward, ties counting half;
            for scores of 0 and 1 the area under the ROC curve.
        auc_within: the same over pairs of one group: what a filter that ranks inside a prompt can use. A reward that
            only tells easy prompts from hard ones has 0.5 here.
    """

    tau: Estimate
    auc: Estimate
    auc_within: Estimate


def rank_agreement(
    rewards: Tensor, scores: Tensor, groups: Tensor, bootstrap: int = 1000, seed: int = 0
) -> RankAgreement:
    """Count pairs of responses that reward and score order alike (C), and against each other (D).

    tau-b = (C - D) / sqrt(X * Y) with X and Y the pairs of different reward and of different score (Kendall 1945), and
    AUC = (1 + (C - D) / Y) / 2. Intervals resample whole groups: with ``c_g`` the times that group g was drawn, the
    counts are ``sum_gh c_g c_h P_gh``, so that pairs are counted only once.

    Args:
        rewards: ``[M]``.
        scores: ``[M]`` true scores, for instance 1.0 where the tests pass.
        groups: ``[M]`` int64, the task that each response answers.
        bootstrap: resamples for the intervals; 0 leaves their ends at the values.
        seed: of the resamples.

    Raises:
        ValueError: on different shapes or numbers that are not finite.
    """
    if rewards.dim() != 1 or rewards.shape != scores.shape or rewards.shape != groups.shape:
        raise ValueError(
            f"rewards, scores and groups must be vectors of one length, got {rewards.shape}, {scores.shape} and "
            f"{groups.shape}"
        )
    if not (rewards.isfinite().all() and scores.isfinite().all()):
        raise ValueError("rewards and scores must be finite; leave out the responses that have none")
    group = torch.unique(groups, return_inverse=True)[1]
    pairs = _pairs(rewards.double(), scores.double(), group)
    once = torch.ones(1, pairs.shape[1], dtype=torch.float64)
    values = _agreement(pairs, once)
    draws = values
    if bootstrap > 0:
        names = torch.arange(pairs.shape[1])
        draws = torch.cat([_agreement(pairs, part) for part in resamples(names, bootstrap, seed)])
    tau, auc, within = (
        Estimate(value, *percentiles(column, value)) for value, column in zip(values[0].tolist(), draws.T, strict=True)
    )
    return RankAgreement(tau, auc, within)


def _pairs(rewards: Tensor, scores: Tensor, group: Tensor) -> Tensor:
    """``[3, G, G]`` C - D, X and Y of every pair of groups, each pair of responses counted from both sides."""
    number = int(group.max()) + 1
    pairs = torch.zeros(3, number, number, dtype=torch.float64)
    for rows in torch.arange(len(rewards)).split(max(1, _CHUNK // len(rewards))):
        x = (rewards[rows].unsqueeze(1) - rewards).sign()
        y = (scores[rows].unsqueeze(1) - scores).sign()
        for index, values in enumerate((x * y, x.abs(), y.abs())):
            columns = torch.zeros(len(rows), number, dtype=torch.float64).index_add_(1, group, values)
            pairs[index].index_add_(0, group[rows], columns)
    return pairs


def _agreement(pairs: Tensor, counts: Tensor) -> Tensor:
    """``[R, 3]`` tau-b, AUC and AUC inside groups of resamples that hold group g ``counts[R, g]`` times."""
    alike, x, y = (((counts @ matrix) * counts).sum(dim=1) for matrix in pairs)
    alike_within, y_within = counts @ pairs[0].diagonal(), counts @ pairs[2].diagonal()
    # 0 / 0 is NaN: without two different scores there is no order to agree on.
    return torch.stack([alike / (x * y).sqrt(), (1 + alike / y) / 2, (1 + alike_within / y_within) / 2], dim=1)
