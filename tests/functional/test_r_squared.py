"""R^2, against numbers by hand, numpy and a population whose R^2 is known."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tamis.functional import Binning, r_squared
from tamis.functional.reliability import resamples


def _draws(tasks: int, seed: int = 0, n: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy rewards of tasks that differ in difficulty, pass or not, and the task of each."""
    generator = torch.Generator().manual_seed(seed)
    ease = torch.randn(tasks, 1, generator=generator)
    rewards = ease + torch.randn(tasks, n, generator=generator)
    scores = (rewards + torch.randn(tasks, n, generator=generator) > 0).float()
    return rewards.flatten(), scores.flatten(), torch.arange(tasks).repeat_interleave(n)


def _slow(rewards: Any, scores: Any, bins: int, binning: str) -> float:
    """numpy's line through bins filled one response at a time; rewards must differ from each other."""
    x, y = np.asarray(rewards, dtype=float), np.asarray(scores, dtype=float)
    if binning == "quantile":
        order = np.argsort(x, kind="stable")
        groups = [order[[p for p in range(len(x)) if p * bins // len(x) == bin_]] for bin_ in range(bins)]
    else:
        index = np.minimum(((x - x.min()) / (x.max() - x.min()) * bins).astype(int), bins - 1)
        groups = [np.flatnonzero(index == bin_) for bin_ in range(bins)]
    points = np.array([[x[group].mean(), y[group].mean()] for group in groups if len(group)])
    slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
    residual = points[:, 1] - slope * points[:, 0] - intercept
    return float(1 - (residual**2).sum() / ((points[:, 1] - points[:, 1].mean()) ** 2).sum())


def test_r_squared_by_hand() -> None:
    """Points (0, 0), (1, 1), (2, 1): the line is y = 1/6 + x/2, SSE = 1/6, SST = 2/3, so R^2 = 3/4."""
    fit = r_squared(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0]), bins=3, bootstrap=0)
    assert fit.value == pytest.approx(0.75)
    assert fit.slope == pytest.approx(0.5)
    assert fit.intercept == pytest.approx(1 / 6)
    assert (fit.low, fit.high) == (fit.value, fit.value)


def test_equal_widths_by_hand() -> None:
    """Of the range 0 to 8, four bins of 2: {0, 1}, {}, {5}, {8}; means (0.5, 0.5), (5, 1), (8, 0)."""
    rewards, scores = torch.tensor([5.0, 0.0, 8.0, 1.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    fit = r_squared(rewards, scores, bins=4, binning="width", bootstrap=0)
    assert fit.bin_counts.tolist() == [2, 1, 1]
    assert fit.bin_rewards.tolist() == pytest.approx([0.5, 5.0, 8.0])
    assert fit.bin_scores.tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_ties_that_a_border_parts_are_taken_at_their_mean() -> None:
    """Rewards 1, 2, 2, 3 in two bins of two: the twos pass half of the time, wherever they stand.

    Bin means: rewards 1.5 and 2.5, scores (0 + 1/2) / 2 = 1/4 and (1/2 + 1) / 2 = 3/4.
    """
    for passing in (1, 2):
        scores = torch.zeros(4)
        scores[[passing, 3]] = 1.0
        fit = r_squared(torch.tensor([1.0, 2.0, 2.0, 3.0]), scores, bins=2, bootstrap=0)
        assert fit.bin_rewards.tolist() == pytest.approx([1.5, 2.5])
        assert fit.bin_scores.tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("binning", ["quantile", "width"])
@pytest.mark.parametrize("bins", [7, 8])
def test_r_squared_equals_a_slow_reference(binning: Any, bins: int) -> None:
    rewards, scores, _ = _draws(40)
    fit = r_squared(rewards, scores, bins, binning, bootstrap=0)
    assert fit.value == pytest.approx(_slow(rewards, scores, bins, binning))
    assert int(fit.bin_counts.sum()) == 200


@pytest.mark.parametrize("binning", ["quantile", "width"])
def test_the_interval_equals_a_slow_bootstrap_over_tasks(binning: Any) -> None:
    """Every resample drawn out row by row. Tasks have 1 to 6 responses, in no order."""
    rewards, scores, _ = _draws(9)
    groups = torch.arange(12).repeat_interleave(torch.arange(12) % 6 + 1)[torch.randperm(42)]
    rewards, scores = rewards[:42], scores[:42]
    fit = r_squared(rewards, scores, 4, binning, bootstrap=50, seed=3, groups=groups)
    values = []
    for counts in next(iter(resamples(groups, 50, seed=3))).long():
        assert all(len(set(counts[groups == task].tolist())) == 1 for task in range(12))  # whole tasks
        assert sum(int(counts[groups == task][0]) for task in range(12)) == 12
        copies = rewards.double().repeat_interleave(counts)
        values.append(_slow(copies, scores.repeat_interleave(counts), 4, binning))
    low, high = np.quantile(values, [0.025, 0.975])
    assert (fit.low, fit.high) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("binning", ["quantile", "width"])
def test_order_scale_and_shift_change_nothing(binning: Any) -> None:
    rewards, scores, groups = _draws(40)
    rewards = (rewards * 4).round() / 4  # with ties
    fit = r_squared(rewards, scores, 8, binning, bootstrap=0, groups=groups)
    order = torch.randperm(len(rewards))
    shuffled = r_squared(rewards[order], scores[order], 8, binning, bootstrap=0, groups=groups[order])
    moved = r_squared(rewards * 2 - 1024, scores, 8, binning, bootstrap=0, groups=groups)
    assert shuffled.value == pytest.approx(fit.value, rel=1e-9)
    assert moved.value == pytest.approx(fit.value, rel=1e-9)
    assert moved.slope == pytest.approx(fit.slope / 2)
    assert moved.intercept == pytest.approx(fit.intercept + 512 * fit.slope)


def test_a_known_r_squared_lies_inside_its_interval() -> None:
    """Five rewards 0 to 4, each a fifth of the responses, that pass with 0, 0.5, 0.3, 0.6 and 0.6.

    Mean x = 2, y = 0.4. Sxx = 10; Sxy = (-2)(-0.4) + (-1)(0.1) + 0 + (1)(0.2) + (2)(0.2) = 1.3;
    Syy = 0.16 + 0.01 + 0.01 + 0.04 + 0.04 = 0.26. So R^2 = 1.69 / 2.6 = 0.65, and slope and intercept are 0.13, 0.14.
    Twenty measurements of 400 tasks: an interval that is what it says misses it now and then.
    """
    inside = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rewards = torch.arange(5.0).repeat(400)
        chances = torch.tensor([0.0, 0.5, 0.3, 0.6, 0.6]).repeat(400)
        scores = (torch.rand(2000, generator=generator) < chances).float()
        groups = torch.arange(400).repeat_interleave(5)
        fit = r_squared(rewards, scores, bins=5, bootstrap=200, seed=seed, groups=groups)
        assert fit.bin_counts.tolist() == [400] * 5
        assert fit.slope == pytest.approx(0.13, abs=0.04)
        inside += fit.low <= 0.65 <= fit.high
        assert 0 < fit.high - fit.low < 0.4
    assert inside >= 17


def test_responses_of_a_task_that_are_alike_widen_the_interval() -> None:
    """Ten copies of a response know what one knows: over tasks the interval stays, over responses it shrinks."""
    rewards, scores, _ = _draws(60, n=1)
    groups = torch.arange(60)
    once = r_squared(rewards, scores, 6, groups=groups)
    rewards, scores, groups = (values.repeat_interleave(10) for values in (rewards, scores, groups))
    tasks, rows = r_squared(rewards, scores, 6, groups=groups), r_squared(rewards, scores, 6)
    assert tasks.high - tasks.low == pytest.approx(once.high - once.low, rel=0.15)
    assert rows.high - rows.low < 0.6 * (tasks.high - tasks.low)


def test_the_interval_covers_a_clear_relation() -> None:
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(2000, generator=generator)
    scores = (torch.rand(2000, generator=generator) < rewards).float()
    fit = r_squared(rewards, scores, bins=10, bootstrap=200)
    assert 0.9 < fit.low <= fit.value <= fit.high <= 1.0


def test_resamples_in_parts_are_the_resamples() -> None:
    """Few rows come in one part, many in several; none is lost."""
    groups = torch.arange(300_000)
    parts = list(resamples(groups, 30, seed=0))
    assert len(parts) > 1
    assert sum(len(part) for part in parts) == 30
    assert all(float(part.sum()) == len(part) * 300_000 for part in parts)


@pytest.mark.parametrize(("reward", "score"), [(1.0, 0.3), (0.1, 1 / 3), (1e6 + 0.1, 0.7)])
def test_constant_numbers_have_no_line(reward: float, score: float) -> None:
    varied = torch.rand(30, dtype=torch.float64)
    for rewards, scores in (
        (torch.full((30,), reward, dtype=torch.float64), varied),
        (varied, torch.full((30,), score, dtype=torch.float64)),
    ):
        for binning in get_args(Binning):
            fit = r_squared(rewards, scores, 3, binning, bootstrap=20)
            assert math.isnan(fit.value)
            assert math.isnan(fit.low)


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        ([1.0] * 3, {}, "at least 2 bins and as many responses as bins, got 20 and 3"),
        ([1.0] * 3, {"bins": 2, "binning": "log"}, "binning must be 'quantile' or 'width', got 'log'"),
        ([1.0, math.nan, 0.0], {"bins": 2}, "rewards and scores must be finite"),
        ([1.0] * 3, {"bins": 2, "groups": torch.zeros(2)}, "name the task of each of 3 responses"),
    ],
)
def test_r_squared_refuses_what_it_cannot_measure(rewards: list[float], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        r_squared(torch.tensor(rewards), torch.ones(3), **options)
