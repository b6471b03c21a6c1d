"""R^2, against numbers by hand and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tamis.functional import r_squared


def test_r_squared_by_hand() -> None:
    """Points (0, 0), (1, 1), (2, 1): the line is y = 1/6 + x/2, SSE = 1/6, SST = 2/3, so R^2 = 3/4."""
    fit = r_squared(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0]), bins=3, bootstrap=0)
    assert fit.value == pytest.approx(0.75)
    assert fit.slope == pytest.approx(0.5)
    assert fit.intercept == pytest.approx(1 / 6)
    assert (fit.low, fit.high) == (fit.value, fit.value)


@pytest.mark.parametrize("binning", ["quantile", "width"])
def test_r_squared_equals_a_slow_reference(binning: str) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(200, generator=generator)
    scores = (rewards + torch.randn(200, generator=generator) > 0).float()
    fit = r_squared(rewards, scores, bins=8, binning=binning, bootstrap=0)  # type: ignore[arg-type]
    x, y = rewards.double().numpy(), scores.double().numpy()
    if binning == "quantile":
        groups = np.array_split(np.argsort(x, kind="stable"), 8)
    else:
        index = np.minimum(((x - x.min()) / (x.max() - x.min()) * 8).astype(int), 7)
        groups = [np.flatnonzero(index == bin_) for bin_ in range(8) if (index == bin_).any()]
    points = np.array([[x[group].mean(), y[group].mean()] for group in groups])
    slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
    residual = points[:, 1] - slope * points[:, 0] - intercept
    expected = 1 - (residual**2).sum() / ((points[:, 1] - points[:, 1].mean()) ** 2).sum()
    assert fit.value == pytest.approx(expected)
    assert fit.bin_counts.tolist() == [len(group) for group in groups]


def test_the_interval_covers_a_clear_relation() -> None:
    generator = torch.Generator().manual_seed(1)
    rewards = torch.rand(2000, generator=generator)
    scores = (torch.rand(2000, generator=generator) < rewards).float()
    fit = r_squared(rewards, scores, bins=10, bootstrap=200)
    assert 0.9 < fit.low <= fit.value <= fit.high <= 1.0


def test_constant_rewards_have_no_line() -> None:
    assert math.isnan(r_squared(torch.ones(10), torch.ones(10), bins=2, bootstrap=0).value)


def test_r_squared_refuses_too_few_responses() -> None:
    with pytest.raises(ValueError, match="at least 2 bins and as many responses as bins, got 20 and 3"):
        r_squared(torch.ones(3), torch.ones(3))
