"""The score of Beta cells against autograd, and the cosine between two halves against what theory says of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Beta

from tamis.functional import beta_score, split_half_cosine


def test_score_by_hand() -> None:
    """Beta(1, 1) at x = 1/4: psi(2) - psi(1) = 1, so log(1/4) + 1 and log(3/4) + 1.

    Beta(2, 1) at x = 1/2: psi(3) - psi(2) = 1/2 and psi(3) - psi(1) = 3/2, so 2 (log(1/2) + 1/2) and log(1/2) + 3/2.
    """
    log_alpha, log_beta = torch.tensor([0.0, math.log(2)]), torch.zeros(2)
    by_alpha, by_beta = beta_score(torch.tensor([0.25, 0.5]), log_alpha, log_beta)
    assert by_alpha.tolist() == pytest.approx([math.log(0.25) + 1, 2 * (math.log(0.5) + 0.5)], abs=1e-6)
    assert by_beta.tolist() == pytest.approx([math.log(0.75) + 1, math.log(0.5) + 1.5], abs=1e-6)


def test_score_is_the_derivative_of_the_log_density() -> None:
    leaves = [torch.empty(3, 7).uniform_(-2, 2).requires_grad_() for _ in range(2)]
    cells = torch.rand(3, 7).clamp(1e-6, 1 - 1e-6)
    log_density = Beta(leaves[0].exp(), leaves[1].exp()).log_prob(cells).sum()
    expected = torch.autograd.grad(log_density, leaves)
    torch.testing.assert_close(beta_score(cells, *(leaf.detach() for leaf in leaves)), expected, atol=1e-4, rtol=1e-4)


def test_score_is_zero_on_average_and_finite_at_the_margin() -> None:
    log_alpha, log_beta = torch.full((50_000,), 0.7), torch.full((50_000,), -0.3)
    cells = Beta(log_alpha.exp(), log_beta.exp()).sample().clamp(1e-6, 1 - 1e-6)
    for score in beta_score(cells, log_alpha, log_beta):
        assert abs(score.mean()) < 4 * score.std() / 50_000**0.5
    for x in (1e-6, 1 - 1e-6):
        assert all(
            part.isfinite().all() for part in beta_score(torch.full((2,), x), torch.full((2,), 5.0), -torch.ones(2))
        )


def test_cosine_by_hand() -> None:
    """(1, 2, 2) and (2, 1, -2) in parts of other shapes: (2 + 2 - 4) / 9 = 0; with (2, 4, 4) it is 1."""
    first = [torch.tensor([[1.0]]), torch.tensor([2.0, 2.0])]
    assert split_half_cosine(first, [torch.tensor([[2.0]]), torch.tensor([1.0, -2.0])]) == 0.0
    assert split_half_cosine(first, [2 * part for part in first]) == pytest.approx(1.0)
    assert split_half_cosine(first, [-part for part in first]) == pytest.approx(-1.0)
    # Over all parts together, not the mean of each part's: (1 * 1 - 8) / (sqrt(9) * sqrt(9)) = -7 / 9.
    assert split_half_cosine(first, [first[0], -first[1]]) == pytest.approx(-7 / 9)


def test_cosine_estimates_the_signal_to_noise() -> None:
    """Squared signal 1 and noise 4 over 20,000 numbers, 8 draws a half: 1 / (1 + 4 / 8) = 2/3."""
    signal = torch.randn(20_000) / 20_000**0.5
    halves = [[signal + 2 * torch.randn(8, 20_000).mean(dim=0) / 20_000**0.5] for _ in range(2)]
    assert split_half_cosine(*halves) == pytest.approx(2 / 3, abs=0.03)


def test_no_gradient_has_no_direction() -> None:
    assert math.isnan(split_half_cosine([torch.zeros(3)], [torch.ones(3)]))


def test_halves_of_different_parts() -> None:
    with pytest.raises(ValueError, match="same parts"):
        split_half_cosine([torch.ones(3)], [torch.ones(2)])
    with pytest.raises(ValueError, match="same parts"):
        split_half_cosine([torch.ones(3)], [])
