"""The KL estimators on a vocabulary of 16 tokens, where expectations are sums: their values and what they teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tamis.functional import kl_divergence


def _policies(distance: float) -> tuple[Tensor, Tensor]:
    """Logits of the policy, with gradients, and log-probabilities of a reference so far away."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, generator=generator, dtype=torch.float64)
    reference = logits + distance * torch.randn(16, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.log_softmax(reference, 0)


def _gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def _exact(p: Tensor, q: Tensor) -> Tensor:
    """KL of two distributions by definition."""
    return (p.exp() * (p - q)).sum()


def _as_loss(logits: Tensor, q: Tensor, estimator: Any) -> Tensor:
    """Expected gradient of the estimate at the tokens that the policy drew; the draw itself has none."""
    p = torch.log_softmax(logits, 0)
    return _gradient((p.exp().detach() * kl_divergence(p, q, estimator)).sum(), logits)


def _as_reward(logits: Tensor, q: Tensor, estimator: Any) -> Tensor:
    """Expected policy gradient of a penalty of so much for each token drawn (Williams 1992)."""
    p = torch.log_softmax(logits, 0)
    return _gradient((p.exp().detach() * kl_divergence(p, q, estimator).detach() * p).sum(), logits)


def test_k1_in_the_reward_and_k2_in_the_loss_teach_the_exact_kl() -> None:
    logits, q = _policies(1.0)
    exact = _gradient(_exact(torch.log_softmax(logits, 0), q), logits)
    torch.testing.assert_close(_as_reward(logits, q, "k1"), exact)
    torch.testing.assert_close(_as_loss(logits, q, "k2"), exact)
    assert exact.norm() > 0.1


def test_k1_in_the_loss_teaches_nothing() -> None:
    logits, q = _policies(1.0)
    torch.testing.assert_close(_as_loss(logits, q, "k1"), torch.zeros_like(q))


def test_k3_in_the_loss_teaches_the_kl_turned_round() -> None:
    """That is near the wanted gradient near the reference only."""
    logits, q = _policies(1.0)
    p = torch.log_softmax(logits, 0)
    torch.testing.assert_close(_as_loss(logits, q, "k3"), _gradient(_exact(q, p), logits))

    def error(distance: float) -> float:
        logits, q = _policies(distance)
        exact = _gradient(_exact(torch.log_softmax(logits, 0), q), logits)
        return float((_as_loss(logits, q, "k3") - exact).norm() / exact.norm())

    assert error(1.0) > 0.1
    assert error(0.01) < 0.02


@pytest.mark.parametrize(("estimator", "unbiased"), [("k1", True), ("k2", False), ("k3", True)])
def test_means_of_drawn_tokens_come_to_the_exact_kl(estimator: Any, unbiased: bool) -> None:
    """A hundred thousand draws against the sum, within five standard errors of the mean."""
    logits, q = _policies(2.0)
    p = torch.log_softmax(logits, 0).detach()
    drawn = torch.multinomial(p.exp(), 100_000, replacement=True, generator=torch.Generator().manual_seed(0))
    estimates = kl_divergence(p[drawn], q[drawn], estimator)
    standard_error = float(estimates.std()) / len(drawn) ** 0.5
    assert (abs(float(estimates.mean() - _exact(p, q))) < 5 * standard_error) == unbiased
    expected = (p.exp() * kl_divergence(p, q, estimator)).sum()
    assert abs(float(estimates.mean() - expected)) < 5 * standard_error
