"""DPO, IPO, KTO and BOND's reward, against numbers worked out by hand and loops over pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tamis.functional import dpo_loss, ipo_loss, kto_loss, log_quantiles, response_log_ratios

LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "dpo": dpo_loss,
    "dpo_smoothed": lambda chosen, rejected, beta: dpo_loss(chosen, rejected, beta, label_smoothing=0.2),
    "ipo": ipo_loss,
    "kto": kto_loss,
}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _slow(name: str, chosen: list[float], rejected: list[float], beta: float) -> list[float]:
    """Each pair by itself, in Python's floats, from the formulas as the papers write them."""
    kl_w, kl_l = (max(0.0, sum(side) / len(side)) for side in (chosen, rejected))
    losses = []
    for w, lose in zip(chosen, rejected, strict=True):
        h = w - lose
        losses.append(
            {
                "dpo": -math.log(_sigmoid(beta * h)),
                "dpo_smoothed": -0.8 * math.log(_sigmoid(beta * h)) - 0.2 * math.log(_sigmoid(-beta * h)),
                "ipo": (h - 1 / (2 * beta)) ** 2,
                "kto": (1 - _sigmoid(beta * (w - kl_l)) + 1 - _sigmoid(beta * (kl_w - lose))) / 2,
            }[name]
        )
    return losses


def _pairs(rows: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = 5 * torch.randn(2, rows, generator=generator)
    return chosen, rejected


@pytest.mark.parametrize("name", LOSSES)
def test_against_a_loop_over_pairs(name: str) -> None:
    chosen, rejected = _pairs()
    for beta in (0.05, 0.1, 1.0):
        expected = _slow(name, chosen.tolist(), rejected.tolist(), beta)
        assert LOSSES[name](chosen, rejected, beta).tolist() == pytest.approx(expected, rel=1e-4)


def test_dpo_by_hand() -> None:
    """Log-ratios log 9 and 0 at beta 1/2: margin log 3, sigmoid 3/4, so -log(3/4) = log(4/3).

    Turned round with probability 1/4: 3/4 log(4/3) + 1/4 log 4, because sigmoid(-log 3) = 1/4.
    """
    chosen, rejected = torch.tensor([math.log(9)]), torch.tensor([0.0])
    assert dpo_loss(chosen, rejected, 0.5).item() == pytest.approx(math.log(4 / 3))
    smoothed = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert dpo_loss(chosen, rejected, 0.5, label_smoothing=0.25).item() == pytest.approx(smoothed)


def test_ipo_by_hand() -> None:
    """Log-ratios 1 and -2 differ by 3; at beta 0.1 the target is 1 / 0.2 = 5, so (3 - 5)^2 = 4."""
    assert ipo_loss(torch.tensor([1.0]), torch.tensor([-2.0]), 0.1).item() == pytest.approx(4.0)


def test_kto_by_hand() -> None:
    """Beta 1; chosen log-ratios log 3 + 1 and 1 - log 3 (mean 1), rejected 1 and -3 (mean -1, so the KL is 0).

    Pair 1: 1 - sigmoid(log 3 + 1) and 1 - sigmoid(1 - 1) = 1/2, where sigmoid(log 3 + 1) = 3e / (3e + 1).
    Pair 2: 1 - sigmoid(1 - log 3), where that sigmoid is e / (e + 3), and 1 - sigmoid(1 + 3) = 1 / (e^4 + 1).
    """
    chosen = torch.tensor([math.log(3) + 1, 1 - math.log(3)])
    loss = kto_loss(chosen, torch.tensor([1.0, -3.0]), 1.0)
    e = math.e
    by_hand = [(1 / (3 * e + 1) + 1 / 2) / 2, (3 / (e + 3) + 1 / (e**4 + 1)) / 2]
    assert loss.tolist() == pytest.approx(by_hand)


def test_log_ratios_by_hand() -> None:
    """(-1 + 2) + (-2 + 4) = 3 and -3 + 1 = -2: sums over the tokens that are there, whatever the padding holds."""
    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]])
    ref = torch.tensor([[-2.0, -4.0], [-1.0, 7.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert response_log_ratios(log_probs, ref, mask).tolist() == [3.0, -2.0]
    with pytest.raises(ValueError, match="must have one shape"):
        response_log_ratios(log_probs, ref[:1], mask)


def test_no_gradient_reaches_the_reference() -> None:
    log_probs, ref = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    response_log_ratios(log_probs, ref, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    assert ref.grad is None
    assert log_probs.grad is not None


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_down_the_loss_prefers_the_chosen_response(name: str) -> None:
    """At the reference (all log-ratios 0): the gradient is negative in chosen, and its opposite in rejected."""
    chosen, rejected = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    LOSSES[name](chosen, rejected, 0.1).mean().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad < 0).all()
    torch.testing.assert_close(rejected.grad, -chosen.grad)
    # Over 4 pairs: DPO -beta/2 (smoothed by 0.2: times 0.6), IPO -2/(2 beta), KTO -beta/4 of half the terms.
    slope = {"dpo": -0.05, "dpo_smoothed": -0.03, "ipo": -10.0, "kto": -0.0125}[name] / 4
    assert chosen.grad.tolist() == pytest.approx([slope] * 4)


def test_kto_s_reference_points_carry_no_gradient() -> None:
    """A response that is alone on its side pushes nothing but itself."""
    chosen, rejected = torch.tensor([3.0, 2.0], requires_grad=True), torch.tensor([4.0, 1.0], requires_grad=True)
    kto_loss(chosen, rejected, 1.0)[0].backward()
    assert chosen.grad is not None
    assert chosen.grad[1].item() == 0.0
    # sigmoid's slope at 3 - KL_rejected = 3 - 2.5, halved.
    assert chosen.grad[0].item() == pytest.approx(-_sigmoid(0.5) * (1 - _sigmoid(0.5)) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_pairs_does_not_matter(name: str) -> None:
    chosen, rejected = _pairs()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    together = LOSSES[name](chosen, rejected, 0.3)
    torch.testing.assert_close(LOSSES[name](chosen[order], rejected[order], 0.3), together[order])


def test_conservative_dpo_stops_where_the_labels_are_as_wrong_as_it_is_told() -> None:
    """The gradient is 0 at sigmoid(beta h) = 1 - e, here 3/4, and turns round behind it."""
    h = torch.tensor([math.log(3) - 0.5, math.log(3), math.log(3) + 0.5], requires_grad=True)
    dpo_loss(h, torch.zeros(3), 1.0, label_smoothing=0.25).sum().backward()
    assert h.grad is not None
    assert h.grad.sign().tolist()[::2] == [-1.0, 1.0]
    assert h.grad[1].item() == pytest.approx(0.0, abs=1e-6)


def test_quantiles_by_hand() -> None:
    """Of (3, 1, 2): 3/3, 1/3, 2/3 score no better. Of (5, 5, 0): the tied two are no better than each other, 3/3."""
    expected = torch.tensor([[1.0, 1 / 3, 2 / 3], [1.0, 1.0, 1 / 3]]).log()
    rewards = torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])
    torch.testing.assert_close(log_quantiles(rewards), expected)


def test_quantiles_depend_on_ranks_inside_a_group_only() -> None:
    rewards = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    quantiles = log_quantiles(rewards)
    torch.testing.assert_close(log_quantiles(3 * rewards.exp() + torch.arange(6.0).unsqueeze(1)), quantiles)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_quantiles(rewards[:, order]), quantiles[:, order])
    slow = [[math.log(sum(other <= mine for other in row) / 5) for mine in row] for row in rewards.tolist()]
    torch.testing.assert_close(quantiles, torch.tensor(slow))
    with pytest.raises(ValueError, match=r"\[groups, samples\]"):
        log_quantiles(rewards[0])


@pytest.mark.parametrize("loss", [dpo_loss, ipo_loss, kto_loss])
def test_bad_input_is_named(loss: Any) -> None:
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        loss(torch.zeros(2), torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match=r"vectors of one length, got \(2,\) and \(3,\)"):
        loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"label_smoothing .* \[0, 0.5\), got 0.5"):
        dpo_loss(torch.zeros(1), torch.zeros(1), 0.1, label_smoothing=0.5)
