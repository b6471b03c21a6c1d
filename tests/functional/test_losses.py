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


def test_bradley_terry_s_margin_and_centring_by_hand() -> None:
    """Scores (2, 1) and (0, 3), margins (1, -3): -log sigmoid(1 - 1) = log 2, and -log sigmoid(-3 + 3) = log 2 again.

    The squared sums are 9 and 9, so that a weight of 0.1 adds 0.9.
    """
    chosen, rejected, margin = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]), torch.tensor([1.0, -3.0])
    assert bradley_terry_loss(chosen, rejected, margin).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(chosen, rejected, margin, 0.1).item() == pytest.approx(math.log(2) + 0.9)
    # A margin of 1 for both: 1 - 1 = 0 and -3 - 1 = -4.
    expected = (math.log(2) + math.log1p(math.exp(4))) / 2
    assert bradley_terry_loss(chosen, rejected, 1.0).item() == pytest.approx(expected)


def test_bradley_terry_against_one_pair_at_a_time() -> None:
    generator = torch.Generator().manual_seed(3)
    chosen, rejected, margin = torch.randn(3, 7, generator=generator, dtype=torch.float64) * 4
    slow = 0.0
    for good, bad, wanted in zip(chosen.tolist(), rejected.tolist(), margin.tolist(), strict=True):
        slow += math.log(1 + math.exp(-(good - bad - wanted))) + 0.3 * (good + bad) ** 2
    assert bradley_terry_loss(chosen, rejected, margin, 0.3).item() == pytest.approx(slow / 7, rel=1e-12)
    order = torch.randperm(7, generator=generator)
    permuted = bradley_terry_loss(chosen[order], rejected[order], margin[order], 0.3)
    assert permuted.item() == pytest.approx(slow / 7, rel=1e-12)


def test_only_centring_feels_where_the_scores_lie() -> None:
    chosen, rejected = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    moved = [bradley_terry_loss(chosen + shift, rejected + shift, 0.5) for shift in (-5.0, 0.0, 9.0)]
    assert [loss.item() for loss in moved] == pytest.approx([moved[0].item()] * 3, rel=1e-5)
    level = torch.zeros(1, requires_grad=True)
    bradley_terry_loss(chosen + level, rejected + level, centring=0.01).backward()
    # d/dt 0.01 (s + t + r + t)^2 = 0.04 (s + r): sums 1.5 and 5, mean 3.25.
    assert level.grad is not None
    assert level.grad.item() == pytest.approx(0.04 * 3.25, rel=1e-4)


def test_bradley_terry_refuses_what_would_be_broadcast() -> None:
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"chosen \(2,\) and rejected \(1,\) must have one shape"):
        bradley_terry_loss(two, torch.zeros(1))
    with pytest.raises(ValueError, match=r"margin \(3,\) must be one number or of the scores' shape \(2,\)"):
        bradley_terry_loss(two, two, three)
    with pytest.raises(ValueError, match="centring must be at least 0, got -1"):
        bradley_terry_loss(two, two, centring=-1)


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
