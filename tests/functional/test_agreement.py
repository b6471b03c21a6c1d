"""Kendall's tau-b and AUC by hand, against torchmetrics and against resamples drawn out row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional import auroc as torchmetrics_auc
from torchmetrics.functional import kendall_rank_corrcoef

from tamis.functional import rank_agreement
from tamis.functional.reliability import resamples


def _tau(rewards: Tensor, scores: Tensor) -> float:
    value = kendall_rank_corrcoef(rewards, scores, variant="b")
    assert isinstance(value, Tensor)
    return float(value)


def _auc(rewards: Tensor, scores: Tensor) -> float:
    value = torchmetrics_auc(rewards.sigmoid(), scores.long(), task="binary")
    assert isinstance(value, Tensor)
    return float(value)


def _draws(tasks: int = 30, n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """With ties: rewards are rounded."""
    rewards = (torch.randn(tasks, n) * 3).round()
    scores = (rewards + 3 * torch.randn(tasks, n) > 0).float()
    return rewards.flatten(), scores.flatten(), torch.arange(tasks).repeat_interleave(n)


def test_agreement_by_hand() -> None:
    """Task a: rewards 3, 1 pass and fail. Task b: rewards 2, 2 fail and pass.

    Pairs of different score, passed against failed: 3>1 alike, 3>2 alike, 2>1 alike, 2=2 tied. So C - D = 3, Y = 4;
    of the 6 pairs all but 2=2 differ in reward, X = 5. tau-b = 3 / sqrt(20); AUC = (3 + 1/2) / 4 = 7/8.
    Inside tasks: 3>1 alike and 2=2 tied, AUC = (1 + 1/2) / 2 = 3/4.
    """
    found = rank_agreement(
        torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([7, 7, 5, 5]), bootstrap=0
    )
    assert found.tau.value == pytest.approx(3 / math.sqrt(20))
    assert found.auc.value == pytest.approx(7 / 8)
    assert found.auc_within.value == pytest.approx(3 / 4)
    assert found.tau.low == found.tau.value == found.tau.high


def test_agreement_equals_torchmetrics() -> None:
    rewards, scores, groups = _draws()
    found = rank_agreement(rewards, scores, groups, bootstrap=0)
    assert found.tau.value == pytest.approx(_tau(rewards, scores), abs=1e-6)
    assert found.auc.value == pytest.approx(_auc(rewards, scores), abs=1e-6)
    graded = scores + rewards.abs()
    expected = _tau(rewards, graded)
    assert rank_agreement(rewards, graded, groups, bootstrap=0).tau.value == pytest.approx(expected, abs=1e-6)


def test_intervals_equal_a_bootstrap_drawn_out_row_by_row() -> None:
    rewards, scores, groups = _draws(10)
    found = rank_agreement(rewards, scores, groups, bootstrap=60, seed=2)
    taus, aucs, withins = [], [], []
    for counts in next(iter(resamples(torch.arange(10), 60, seed=2))).long():
        copies = [values.repeat_interleave(counts[groups]) for values in (rewards, scores)]
        taus.append(_tau(*copies))
        aucs.append(_auc(*copies))
        better = total = 0.0
        for task in range(10):
            x, y = rewards[groups == task], scores[groups == task]
            for good in x[y == 1].tolist():
                for bad in x[y == 0].tolist():
                    better += int(counts[task]) * (1.0 if good > bad else 0.5 if good == bad else 0.0)
                    total += int(counts[task])
        withins.append(better / total)
    for estimate, values in zip(found, (taus, aucs, withins), strict=True):
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-6)
        assert estimate.low < estimate.value < estimate.high


def test_a_reward_that_knows_tasks_only_ranks_nothing_inside_them() -> None:
    """Every response of an easy task gets 1, of a hard one 0: it helps no filter, whatever its tau."""
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]).repeat(20, 1)
    rewards = torch.tensor([[1.0] * 4, [0.0] * 4]).repeat(20, 1)
    found = rank_agreement(rewards.flatten(), scores.flatten(), torch.arange(40).repeat_interleave(4))
    assert found.auc_within == (0.5, 0.5, 0.5)
    assert found.tau.low > 0.3
    assert found.auc.low > 0.6


def test_order_and_monotone_maps_change_nothing_and_the_sign_turns() -> None:
    rewards, scores, groups = _draws()
    found = rank_agreement(rewards, scores, groups, bootstrap=0)
    order = torch.randperm(len(rewards))
    shuffled = rank_agreement(rewards[order].exp(), scores[order], groups[order], bootstrap=0)
    turned = rank_agreement(-rewards, scores, groups, bootstrap=0)
    for one, same, other in zip(found, shuffled, turned, strict=True):
        assert same.value == pytest.approx(one.value)
        centre = 0.0 if one is found.tau else 0.5
        assert other.value - centre == pytest.approx(centre - one.value)


def test_without_two_scores_there_is_no_agreement() -> None:
    found = rank_agreement(torch.arange(4.0), torch.ones(4), torch.tensor([0, 0, 1, 1]), bootstrap=10)
    assert all(math.isnan(number) for estimate in found for number in estimate)


def test_shapes_and_numbers_are_checked() -> None:
    with pytest.raises(ValueError, match="vectors of one length"):
        rank_agreement(torch.ones(3), torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="must be finite"):
        rank_agreement(torch.tensor([1.0, math.inf]), torch.ones(2), torch.arange(2))
