"""pass@k and its interval, against numbers by hand and brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from tamis.functional import (
    binomial_standard_error,
    bootstrap_interval,
    evaluation,
    pass_at_k,
    pass_at_k_per_problem,
)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_equals_enumeration(n: int) -> None:
    """All draws of k of n without replacement, counted one by one."""
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations(range(n), k))
        expected = sum(any(index < c for index in draw) for draw in draws) / len(draws)
        assert pass_at_k([n], [c], k) == pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_a_mean_over_problems() -> None:
    """(1 - 0) / 1 and 1/2 of 2: mean 0.75. Problems may have different numbers of samples: 1/2 and 3/4, mean 5/8."""
    assert pass_at_k([2, 2], [2, 1], 1) == pytest.approx(0.75)
    assert pass_at_k_per_problem([2, 4], [1, 3], 1).tolist() == pytest.approx([0.5, 0.75])
    assert pass_at_k([2, 4], [1, 3], 1) == pytest.approx(0.625)


def test_many_samples_cost_no_precision() -> None:
    """Factorials of 1000 would overflow: 1 - C(990, 100) / C(1000, 100), from Python's exact integers."""
    exact = 1 - math.comb(990, 100) / math.comb(1000, 100)
    assert pass_at_k(1000, 10, 100) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [([1], [1], 2), ([2], [3], 1), ([2], [1, 1], 1), ([3], [1], 0), ([], [], 1)])
def test_pass_at_k_refuses_the_impossible(n: list[int], c: list[int], k: int) -> None:
    with pytest.raises(ValueError, match="samples|entry"):
        pass_at_k(n, c, k)


def test_the_interval_by_hand() -> None:
    """Means of two draws from {0, 1}: 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.

    So the inner 95 % reach from 0 to 1, the inner 40 % (quantiles 0.3 and 0.7) hold nothing but 1/2.
    """
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.25] * 5) == (0.25, 0.25)


@pytest.mark.parametrize("confidence", [0.5, 0.7, 0.8, 0.95])
def test_the_interval_equals_all_resamples_there_are(confidence: float) -> None:
    """4 problems can be drawn in 4^4 ways. None of these quantiles lies where the ordered means jump."""
    values = [0.0, 0.1, 0.35, 1.0]
    means = torch.tensor([sum(draw) / 4 for draw in itertools.product(values, repeat=4)], dtype=torch.float64)
    expected = torch.quantile(means, torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64))
    assert bootstrap_interval(values, confidence, resamples=200_000) == pytest.approx(expected.tolist())


def test_the_interval_of_many_problems_is_the_normal_one() -> None:
    """Half of 400 problems: 0.5 ± 1.96 * 0.025."""
    low, high = bootstrap_interval([0.0, 1.0] * 200)
    error = binomial_standard_error(0.5, 400)
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.004)


def test_what_must_hold_of_any_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inner, outer = (bootstrap_interval(values, confidence) for confidence in (0.5, 0.95))
    assert values.min() <= outer.low < inner.low < values.mean() < inner.high < outer.high <= values.max()
    assert bootstrap_interval(values, seed=0) == outer != bootstrap_interval(values, seed=1)
    assert bootstrap_interval(1 - values) == pytest.approx((1 - outer.high, 1 - outer.low))
    assert bootstrap_interval(values.float()) == pytest.approx(outer)
    monkeypatch.setattr(evaluation, "_CHUNK", 1000)  # so that the draws come in several parts, the last one smaller
    assert bootstrap_interval(values) == pytest.approx(outer, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_problem_values": []}, "no interval of no problems"),
        ({"confidence": 1.0}, "between 0 and 1.*got 1.0"),
        ({"confidence": 0.0}, "between 0 and 1.*got 0.0"),
        ({"resamples": 0}, "at least 1, got 0.95 and 0"),
    ],
)
def test_the_interval_refuses_the_impossible(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**{"per_problem_values": [1.0], **arguments})


def test_standard_error_by_hand() -> None:
    assert binomial_standard_error(0.5, 100) == pytest.approx(0.05)
