"""The losses, against numbers worked out by hand, autograd and exact expectations."""

from __future__ import annotations

import math

import pytest
import torch

from tamis.functional import (
    aggregate_loss,
    bradley_terry_loss,
    kl_divergence,
    masked_mean,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_loss,
)

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_clipped_surrogate_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5 with advantages +1, -1, +1, -1 and epsilon 0.2.

    min(ratio A, clipped A): 1.2, -1.5, 0.5, -0.8; their mean is -0.15, so the loss is 0.15.
    """
    log_probs = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    loss, stats = ppo_policy_loss(log_probs, torch.zeros(1, 4), advantages, ALL, 0.2)
    assert loss.item() == pytest.approx(0.15)
    assert stats.clip_fraction.item() == 1.0
    assert stats.ratio_mean.item() == pytest.approx(1.0)
    assert stats.ratio_max.item() == pytest.approx(1.5)
    expected_kl = sum(ratio - 1 - math.log(ratio) for ratio in (1.5, 1.5, 0.5, 0.5)) / 4
    assert stats.approx_kl.item() == pytest.approx(expected_kl)


def test_clipping_stops_the_gradient_where_it_pays_no_more() -> None:
    log_probs = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    ppo_policy_loss(log_probs, torch.zeros(1, 4), advantages, ALL, 0.2)[0].backward()
    assert log_probs.grad is not None
    # d(-ratio A)/d log_prob = -ratio A where it is not clipped; over 4 steps.
    torch.testing.assert_close(log_probs.grad, torch.tensor([[0.0, 1.5 / 4, -0.5 / 4, 0.0]]))


def test_before_the_first_step_ppo_is_the_policy_gradient() -> None:
    log_probs = torch.randn(1, 4).requires_grad_()
    advantages = torch.randn(1, 4)
    ppo = torch.autograd.grad(ppo_policy_loss(log_probs, log_probs.detach(), advantages, ALL)[0], log_probs)[0]
    reinforce = torch.autograd.grad(reinforce_loss(log_probs, advantages, ALL, "seq_mean"), log_probs)[0]
    torch.testing.assert_close(ppo, reinforce)


def test_value_loss_by_hand() -> None:
    """V = 1, old V = 0, return 2, epsilon 0.2: errors (1 - 2)^2 = 1 and (0.2 - 2)^2 = 3.24; half the larger is 1.62."""
    one = torch.ones(1, 1, dtype=torch.bool)
    values, old, returns = torch.ones(1, 1), torch.zeros(1, 1), torch.full((1, 1), 2.0)
    assert ppo_value_loss(values, old, returns, one, 0.2).item() == pytest.approx(1.62)
    assert ppo_value_loss(values, old, returns, one, None).item() == pytest.approx(0.5)


def test_reinforce_is_unbiased() -> None:
    """Exact gradient of the expected reward of a 3-armed bandit against REINFORCE's expectation over its actions."""
    logits = torch.tensor([0.2, -0.3, 0.5], requires_grad=True)
    rewards = torch.tensor([1.0, 2.0, -1.0])
    exact = torch.autograd.grad(-(torch.softmax(logits, 0) @ rewards), logits)[0]
    log_probs = torch.log_softmax(logits, 0)
    expected = sum(
        torch.softmax(logits, 0)[arm].detach()
        * torch.autograd.grad(
            reinforce_loss(log_probs[arm].view(1, 1), rewards[arm].view(1) - 7.0, ALL[:, :1]), logits, retain_graph=True
        )[0]
        for arm in range(3)
    )
    torch.testing.assert_close(expected, exact)  # any constant baseline (here 7) leaves the expectation alone


def test_kl_estimators_against_the_exact_kl() -> None:
    """On 16 tokens the expectations are sums: k1 and k3 give KL(p || q) exactly, k2 only nearby."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(16, generator=generator), 0)
    q = torch.softmax(p.log() + 0.3 * torch.randn(16, generator=generator), 0)
    exact = float((p * (p.log() - q.log())).sum())
    for estimator, tolerance in (("k1", 1e-5), ("k3", 1e-5), ("k2", 0.25 * exact)):
        estimate = float((p * kl_divergence(p.log(), q.log(), estimator)).sum())  # type: ignore[arg-type]
        assert estimate == pytest.approx(exact, abs=tolerance), estimator
    assert (kl_divergence(p.log(), q.log(), "k3") >= 0).all()


def test_bradley_terry_by_hand() -> None:
    """-log sigmoid(0) = log 2 and -log sigmoid(log 3) = log(4/3)."""
    loss = bradley_terry_loss(torch.tensor([1.0, math.log(3.0)]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_aggregations_by_hand() -> None:
    """Rows (1, 2, 3) and (10): token mean 4, mean of row means (2 + 10) / 2 = 6, mean of row sums (6 + 10) / 2 = 8."""
    loss = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert aggregate_loss(loss, mask, "token_mean").item() == pytest.approx(4.0)
    assert aggregate_loss(loss, mask, "seq_mean").item() == pytest.approx(6.0)
    assert aggregate_loss(loss, mask, "seq_sum").item() == pytest.approx(8.0)
    with pytest.raises(ValueError, match="aggregation must be"):
        aggregate_loss(loss, mask, "mean")  # type: ignore[arg-type]


def test_whitening_by_hand() -> None:
    """(1, 3) has mean 2 and variance 1; the padded 99 does not count."""
    values = torch.tensor([[1.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(masked_whiten(values, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    torch.testing.assert_close(masked_whiten(values, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]]))


def test_whitening_one_value_only_shifts_it() -> None:
    mask = torch.tensor([[True, False]])
    torch.testing.assert_close(masked_whiten(torch.tensor([[5.0, 1.0]]), mask), torch.zeros(1, 2))
    assert masked_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)).item() == 0.0
