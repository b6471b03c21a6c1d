"""Filtration, against weights worked out by hand and against brute force."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from tamis.functional import Strategy, select, selection_weights

REWARDS = torch.tensor([[0.1, 0.9, -0.5, 0.3, 0.2], [5.0, 1.0, 2.0, 3.0, 4.0]])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("none", [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("random", [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("best_of_n", [0, 1, 0, 0, 0]),
        ("best_random", [0.125, 0.5, 0.125, 0.125, 0.125]),  # the paper's BR for N = 5
        ("best_worst", [0, 0.5, 0.5, 0, 0]),
        ("top", [0, 0.5, 0, 0.5, 0]),  # 0.9 and 0.3 lie above 0.25
        ("top_random", [1 / 7, 2 / 7, 1 / 7, 2 / 7, 1 / 7]),  # weights 1/2, 1, 1/2, 1, 1/2
        ("top_bottom", [0, 1 / 3, 1 / 3, 1 / 3, 0]),
        ("power", [0.01 / 1.2, 0.81 / 1.2, 0.25 / 1.2, 0.09 / 1.2, 0.04 / 1.2]),  # squares sum to 1.2
    ],
)
def test_weights_by_hand(strategy: Strategy, expected: list[float]) -> None:
    weights = selection_weights(REWARDS, strategy, power=2.0, high=0.25, low=0.0)
    torch.testing.assert_close(weights[0], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("strategy", "keep", "expected"),
    [
        ("none", 5, {0, 1, 2, 3, 4}),
        ("best_of_n", 1, {1}),
        ("best_of_n", 2, {1, 3}),
        ("best_worst", 2, {1, 2}),
        ("best_worst", 3, {1, 2, 3}),  # best, worst, second best
        ("best_worst", 4, {1, 2, 3, 0}),
        ("top", 2, {1, 3}),
        ("top_bottom", 3, {1, 2, 3}),
        ("power", 2, {1, 2}),
    ],
)
def test_hard_picks_by_hand(strategy: Strategy, keep: int, expected: set[int]) -> None:
    columns = select(REWARDS, strategy, keep, high=0.25, low=0.0)
    assert set(columns[0].tolist()) == expected
    assert columns.shape == (2, keep)


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_hard_picks_are_different_rows(strategy: Strategy) -> None:
    columns = select(torch.zeros(50, 4), strategy, 4, high=0.0, low=0.0)
    assert columns.sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 50


def test_best_random_keeps_the_best_and_any_other() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = select(REWARDS[:1].expand(2000, 5), "best_random", 2, generator=generator)
    assert (columns[:, 0] == 1).all()
    others = torch.bincount(columns[:, 1], minlength=5) / 2000
    # Uniform over the four others: 1/4 each, standard error sqrt(3/16/2000) = 0.0097.
    torch.testing.assert_close(others, torch.tensor([0.25, 0.0, 0.25, 0.25, 0.25]), atol=0.035, rtol=0)


def test_sampling_follows_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = select(REWARDS[:1].expand(4000, 5), "best_random", 2, mode="sample", generator=generator)
    frequency = torch.bincount(columns.flatten(), minlength=5) / columns.numel()
    torch.testing.assert_close(frequency, torch.tensor([0.125, 0.5, 0.125, 0.125, 0.125]), atol=0.02, rtol=0)


def test_ties_are_broken_at_random_and_not_by_position() -> None:
    generator = torch.Generator().manual_seed(0)
    best = select(torch.zeros(3000, 3), "best_of_n", 1, generator=generator)
    frequency = torch.bincount(best.flatten(), minlength=3) / 3000
    torch.testing.assert_close(frequency, torch.full((3,), 1 / 3), atol=0.035, rtol=0)


def test_ranks_stay_inside_the_group() -> None:
    """A constant added to one group's rewards changes nothing: nobody is compared across groups."""
    moved = REWARDS + torch.tensor([[100.0], [0.0]])
    for strategy in ("best_of_n", "best_worst"):
        assert torch.equal(select(REWARDS, strategy, 2), select(moved, strategy, 2))


def test_permuting_the_responses_permutes_the_weights() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    for strategy in ("best_of_n", "best_random", "best_worst", "power"):
        torch.testing.assert_close(
            selection_weights(REWARDS[:, order], strategy), selection_weights(REWARDS, strategy)[:, order]
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select(REWARDS, "best_wurst", 2), "unknown strategy 'best_wurst'; choose one of none, random"),  # type: ignore[arg-type]
        (lambda: select(REWARDS, "random", 6), "between 1 and the 5 responses of a group, got 6"),
        (lambda: select(REWARDS[:, :1], "best_worst", 1), "needs at least 2 a group, got 1"),
        (lambda: select(REWARDS, "top", 1), "top needs the threshold `high`"),
        (lambda: select(REWARDS, "top_bottom", 1, high=1.0), "needs the threshold `low`"),
        (lambda: select(REWARDS[0], "random", 1), r"rewards must be \[groups, responses\]"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
