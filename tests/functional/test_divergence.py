"""The rule of the reward-hacking warning and distinct-n, by hand and against slow references."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from tamis.functional import distinct_n, divergence, wilson_interval


def _column(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_divergence_by_hand() -> None:
    """Rewards change by 1, 2, 3, 2: mean 2, s = sqrt(2/3), error sqrt(2/3)/2, z = 2 * 2 / sqrt(2/3) = 4.89898.

    Pass rates change by -1/2, -1, -1/2, 0: mean -1/2, s = sqrt(1/6), z = -1/2 * 2 / sqrt(1/6) = -2.44949.
    """
    before = _column(0.0, 0.0, 0.0, 0.0), _column(1.0, 1.0, 0.5, 0.5)
    now = _column(1.0, 2.0, 3.0, 2.0), _column(0.5, 0.0, 0.0, 0.5)
    found = divergence(before[0], now[0], before[1], now[1], threshold=2.4)
    assert found.reward_z == pytest.approx(4.898979)
    assert found.score_z == pytest.approx(-2.449490)
    assert found.parted
    assert not divergence(before[0], now[0], before[1], now[1], threshold=2.5).parted
    assert not divergence(now[0], before[0], now[1], before[1], threshold=2.4).parted  # the other way round


@pytest.mark.parametrize(
    ("reward", "score", "parted"), [(1, -1, True), (1, 1, False), (-1, -1, False), (-1, 1, False), (0, -1, False)]
)
def test_only_a_rising_reward_with_a_falling_score_has_parted(reward: int, score: int, parted: bool) -> None:
    """All tasks move alike: no spread, and no doubt."""
    zeros = torch.zeros(5)
    found = divergence(zeros, zeros + reward, zeros + 1, zeros + 1 + score)
    assert found.parted is parted
    assert found.reward_z == (reward * math.inf if reward else 0.0)


def test_tasks_are_compared_with_themselves() -> None:
    """Pairs: however far tasks lie apart, only their changes count; and their order does not."""
    generator = torch.Generator().manual_seed(0)
    before, changes = torch.randn(2, 30, generator=generator)
    spread = 100 * torch.randn(30, generator=generator).double()
    plain = divergence(before, before + changes, -before, -before - changes)
    wide = divergence(before + spread, before + spread + changes, -before, -before - changes)
    order = torch.randperm(30, generator=generator)
    shuffled = divergence(before[order], (before + changes)[order], -before[order], (-before - changes)[order])
    slow = statistics.mean(changes.tolist()) / (statistics.stdev(changes.tolist()) / math.sqrt(30))
    assert plain.reward_z == pytest.approx(slow, rel=1e-4)
    assert wide.reward_z == pytest.approx(slow, rel=1e-4)
    assert shuffled.score_z == pytest.approx(-slow, rel=1e-4)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """The reward is sure to rise, the score only wavers: at 2 standard errors 2.3 % of comparisons, at 3 0.14 %."""
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(50)
    alarms = {2.0: 0, 3.0: 0}
    for _ in range(2000):
        change = torch.randn(50, generator=generator)
        for threshold in alarms:
            alarms[threshold] += divergence(zeros, zeros + 1, zeros, change, threshold).parted
    assert 25 <= alarms[2.0] <= 75
    assert alarms[3.0] <= 10


@pytest.mark.parametrize(
    ("arguments", "threshold", "message"),
    [
        ([1, 1, 1, 1], 3.0, "the same 2 or more tasks"),
        ([2, 2, 3, 2], 3.0, "the same 2 or more tasks"),
        ([2, 2, 2, 2], 0.0, "must be above 0, got 0.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: list[int], threshold: float, message: str) -> None:
    first, second, third, fourth = (torch.ones(size) for size in arguments)
    with pytest.raises(ValueError, match=message):
        divergence(first, second, third, fourth, threshold)


def test_distinct_n_by_hand() -> None:
    """abab has ab, ba, ab: 2 of 3. aaaa has aa three times: 1 of 3. The mean is 1/2; "a" has no pair."""
    assert distinct_n(["abab", "aaaa", "a"], n=2) == pytest.approx(0.5)
    assert distinct_n(["abab"], n=1) == 0.5
    assert math.isnan(distinct_n(["a", ""], n=2))
    with pytest.raises(ValueError, match="got n=0"):
        distinct_n(["ab"], n=0)


def test_distinct_n_equals_a_slow_reference_in_any_order() -> None:
    source = random.Random(0)
    texts = [[source.randrange(4) for _ in range(source.randrange(12))] for _ in range(50)]
    shares = []
    for text in texts:
        seen: list[tuple[int, ...]] = []
        for start in range(len(text) - 2):
            gram = (text[start], text[start + 1], text[start + 2])
            seen += [] if gram in seen else [gram]
        shares += [len(seen) / (len(text) - 2)] if len(text) > 2 else []
    assert distinct_n(texts, n=3) == pytest.approx(statistics.mean(shares))
    assert distinct_n(texts[::-1], n=3) == pytest.approx(distinct_n(texts, n=3))


def test_wilson_by_hand() -> None:
    """p = 1/2, n = 4, z = 2: centre (1/2 + 1/2) / 2 = 1/2, half 2 * sqrt(1/16 + 1/16) / 2 = 0.353553.

    p = 0: centre and half are both (z^2/2n) / (1 + z^2/n) = (1/2) / 2 = 1/4, so the ends are 0 and 1/2.
    """
    assert wilson_interval(0.5, 4, z=2.0) == pytest.approx((0.5 - 0.353553, 0.5 + 0.353553), abs=1e-6)
    assert wilson_interval(0.0, 4, z=2.0) == pytest.approx((0.0, 0.5))
    low, high = wilson_interval(0.2, 10)
    assert wilson_interval(0.8, 10) == pytest.approx((1 - high, 1 - low))
    for rate, n in ((1.2, 4), (0.5, 0)):
        with pytest.raises(ValueError, match="between 0 and 1 and has at least one try"):
            wilson_interval(rate, n)


def test_wilson_solves_its_equation() -> None:
    """The ends are the rates q from which p lies z standard errors away: (p - q)^2 = z^2 q (1 - q) / n."""
    for end in wilson_interval(0.3, 17):
        assert (0.3 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 17)
