"""Paired differences by hand, and against the statistics of the standard library."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from tamis.functional import moments, paired_difference, spread


def test_difference_by_hand() -> None:
    """Differences 1, 2, 3, 6: mean 3, squares about it 4 + 1 + 0 + 9 = 14, s^2 = 14 / 3, SE^2 = 14 / 12."""
    found = paired_difference(moments(torch.tensor([1.0, 2.0, 3.0, 6.0])))
    assert found.mean == 3.0
    assert found.standard_error == pytest.approx(math.sqrt(14 / 12))
    assert found.z == pytest.approx(3 / math.sqrt(14 / 12))


def test_standard_error_is_that_of_the_standard_library() -> None:
    first, second = (torch.randn(50) + 5).double(), torch.randn(50).double()
    values = (first - second).tolist()
    found = paired_difference(moments(first - second))
    error = statistics.stdev(values) / math.sqrt(50)
    assert found == pytest.approx((statistics.fmean(values), error, statistics.fmean(values) / error))


def test_what_distinguishes_the_things_drops_out() -> None:
    things, effect = 100 * torch.randn(40).double(), torch.randn(40).double() + 1
    found = paired_difference(moments((things + effect) - things))
    assert found == pytest.approx(paired_difference(moments(effect)), rel=1e-6)


def test_order_and_sign() -> None:
    values = torch.randn(17)
    found = paired_difference(moments(values))
    assert paired_difference(moments(values.flip(0))) == pytest.approx(found)
    turned = paired_difference(moments(-values))
    assert turned == pytest.approx((-found.mean, found.standard_error, -found.z))


def test_moments_of_ranks_add_up() -> None:
    values = torch.randn(10, 3)
    torch.testing.assert_close(moments(values[:7]) + moments(values[7:]), moments(values))
    assert moments(values).dtype == torch.float64


def test_spread_is_the_sample_standard_deviation() -> None:
    values = torch.randn(9, 2)
    expected = [statistics.stdev(column.tolist()) for column in values.T]
    assert spread(moments(values)).tolist() == pytest.approx(expected, rel=1e-6)
    assert spread(moments(torch.full((5,), 0.1))) == pytest.approx(0.0, abs=1e-7)  # not NaN of a rounded -1e-17


def test_without_spread() -> None:
    assert paired_difference(moments(torch.zeros(4))) == (0.0, 0.0, 0.0)
    assert paired_difference(moments(torch.full((4,), 0.5))).z == math.inf
    assert paired_difference(moments(torch.full((4,), -0.5))).z == -math.inf
    assert math.isnan(paired_difference(moments(torch.tensor([2.0]))).z)


def test_sums_of_something_else() -> None:
    with pytest.raises(ValueError, match="one difference or more"):
        paired_difference(moments(torch.zeros(0)))
    with pytest.raises(ValueError, match="one difference or more"):
        paired_difference(moments(torch.zeros(2, 2)))
