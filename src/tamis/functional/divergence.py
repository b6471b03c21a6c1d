"""Reward hacking: whether the reward has risen on a probe set while the true score has fallen; repetition."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor


class Divergence(NamedTuple):
    """How reward and true score have moved on the same tasks.

    Args:
        reward_z: mean change of the reward in standard errors.
        score_z: mean change of the true score in standard errors.
        parted: the reward is up and the score is down, each by more than the threshold.
    """

    reward_z: float
    score_z: float
    parted: bool


def divergence(
    rewards_before: Tensor, rewards_now: Tensor, scores_before: Tensor, scores_now: Tensor, threshold: float = 3.0
) -> Divergence:
    """Compare two measurements of the same tasks, each task with itself.

    With ``d_t`` the change of task t's mean, ``z = mean(d) / (s / sqrt(T))``, where s is the standard deviation (with
    T - 1) of the ``d_t``: tasks are independent of each other, a task's samples are not. They have parted when
    ``z(reward) > threshold`` and ``z(score) < -threshold``. At a threshold of 3, a score that does not move while the
    reward rises gives a false alarm about once in 740 comparisons (a normal distribution's tail).

    Args:
        rewards_before: ``[T]`` each task's mean reward in the earlier measurement.
        rewards_now: ``[T]`` in the later one.
        scores_before: ``[T]`` each task's mean true score, for instance the share of its samples that pass.
        scores_now: ``[T]``.
        threshold: standard errors that count as a move, above 0.

    Raises:
        ValueError: on fewer than 2 tasks, different shapes, or a threshold that is not positive.
    """
    if threshold <= 0:
        raise ValueError(f"threshold counts standard errors and must be above 0, got {threshold}")
    shapes = {tensor.shape for tensor in (rewards_before, rewards_now, scores_before, scores_now)}
    if len(shapes) != 1 or rewards_before.dim() != 1 or len(rewards_before) < 2:
        raise ValueError(f"need the same 2 or more tasks in both measurements, got shapes {sorted(map(tuple, shapes))}")
    reward_z = _z(rewards_now.double() - rewards_before.double())
    score_z = _z(scores_now.double() - scores_before.double())
    return Divergence(reward_z, score_z, reward_z > threshold and score_z < -threshold)


def _z(changes: Tensor) -> float:
    """Mean in standard errors; infinite where all tasks moved alike, 0 where none moved."""
    mean, error = float(changes.mean()), float(changes.std()) / math.sqrt(len(changes))
    if error == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / error


def distinct_n(texts: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Mean share of a text's n-grams that are different ones: near 1 for prose and code, towards 0 for one that loops.

    Per text, unlike Li et al. 2016 (who pool all texts): similar answers to similar prompts are no repetition.

    Args:
        texts: the tokens of each text; those with fewer than n are left out.
        n: length of the n-grams.

    Returns:
        NaN if no text is that long.

    Raises:
        ValueError: if n is below 1.
    """
    if n < 1:
        raise ValueError(f"n-grams have at least 1 token, got n={n}")
    shares = []
    for text in texts:
        grams = [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else math.nan
