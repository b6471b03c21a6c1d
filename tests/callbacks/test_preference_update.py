"""Iterative DPO: which rows become pairs, and what is learned from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tamis.callbacks import Filtration, PreferenceUpdate
from tamis.callbacks.minibatches import minibatches
from tamis.functional import dpo_loss, ipo_loss
from tamis.modules import ActionEvaluation
from tamis.rollout import Rollout

from .fixed.tokens import Stats, Tokens, fit

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dpo": lambda chosen, rejected: dpo_loss(chosen, rejected, 0.3),
    "ipo": lambda chosen, rejected: ipo_loss(chosen, rejected, 0.3),
}


def _rollout() -> Rollout:
    """Groups 5, 2 and 7, interleaved: better rows 2 and 1, and two that are equal."""
    rows: Rollout = Tokens().drawn.select(torch.tensor([0, 1, 5, 8, 9, 10]))
    return rows.replace(
        group_ids=torch.tensor([5, 2, 5, 2, 7, 7]),
        rewards=torch.tensor([1.0, 9.0, 3.0, -2.0, 4.0, 4.0]),
        ref_log_probs=-1 - torch.rand(rows.actions.shape, generator=torch.Generator().manual_seed(0)),
    )


def test_the_better_row_of_each_group_is_chosen() -> None:
    rollout = _rollout()
    pairs = PreferenceUpdate().pairs(rollout)
    assert pairs.rewards is not None
    assert pairs.kept is not None
    assert pairs.group_ids.tolist() == [2, 2, 5, 5, 7, 7]
    assert pairs.rewards.tolist() == [9.0, -2.0, 3.0, 1.0, 4.0, 4.0]
    assert pairs.kept.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_decided_pairs(name: Any) -> None:
    """Each row by itself, from its own logits: rows 1 over 3 and 2 over 0; the equal two are left out."""
    module, rollout = Tokens(), _rollout()
    assert rollout.ref_log_probs is not None
    ratios = []
    for row in range(6):
        log_softmax = torch.log_softmax(module.policy(rollout.observations["features"][row]), -1)
        steps = int(rollout.response_mask[row].sum())
        tokens = zip(range(steps), rollout.actions[row].tolist(), strict=False)
        ratios.append(sum(log_softmax[step, token] - rollout.ref_log_probs[row, step] for step, token in tokens))
    chosen, rejected = (torch.stack([torch.as_tensor(ratios[row]) for row in rows]) for rows in ((1, 2), (3, 0)))
    update = PreferenceUpdate(name, beta=0.3)
    loss, stats = update.loss(module, update.pairs(rollout))
    torch.testing.assert_close(loss, LOSSES[name](chosen, rejected).mean())
    assert stats["update/preference_loss"].item() == loss.item()
    assert stats["update/preference_accuracy"].item() == (chosen > rejected).float().mean().item()
    assert stats["update/implicit_reward_chosen"].item() == pytest.approx(0.3 * chosen.mean().item())
    assert stats["update/implicit_reward_rejected"].item() == pytest.approx(0.3 * rejected.mean().item())


@pytest.mark.parametrize("minibatch_size", [None, 8])
def test_a_step_is_the_mean_over_the_decided_pairs(minibatch_size: int | None) -> None:
    """SGD at rate 1 against autograd: of four groups two have equal rewards, so that two pairs count, not four."""
    module, reference = Tokens(critic=False), Tokens(critic=False)
    assert module.drawn.rewards is not None
    module.drawn.rewards[:8] = 1.0
    fit(module, Filtration("best_worst", keep=2), PreferenceUpdate(minibatch_size=minibatch_size))
    rows = reference.complete(reference.drawn)
    assert rows.ref_log_probs is not None
    assert rows.rewards is not None
    change = (reference.evaluate_actions(rows).log_probs - rows.ref_log_probs) * rows.response_mask
    ratios, rewards = change.sum(dim=1).view(4, 4)[2:], rows.rewards.view(4, 4)[2:]
    chosen = ratios.gather(1, rewards.argmax(dim=1, keepdim=True)).squeeze(1)
    rejected = ratios.gather(1, rewards.argmin(dim=1, keepdim=True)).squeeze(1)
    (dpo_loss(chosen, rejected).sum() / 2).backward()
    assert reference.policy.weight.grad is not None
    torch.testing.assert_close(module.policy.weight, reference.policy.weight - reference.policy.weight.grad)


def test_label_smoothing_reaches_the_loss() -> None:
    """At the reference every margin is 0 and smoothing changes no loss, but its slope: 1 - 2 e of it is left."""
    gradients = []
    for smoothing in (0.0, 0.25):
        module, update = Tokens(), PreferenceUpdate(label_smoothing=smoothing)
        rollout = _rollout().replace(ref_log_probs=module.evaluate_actions(_rollout()).log_probs.detach())
        update.loss(module, update.pairs(rollout))[0].backward()
        assert module.policy.weight.grad is not None
        gradients.append(module.policy.weight.grad)
    torch.testing.assert_close(gradients[1], 0.5 * gradients[0])


def test_only_equal_rewards_teach_nothing() -> None:
    module, update = Tokens(), PreferenceUpdate()
    loss, _ = update.loss(module, update.pairs(_rollout().replace(rewards=torch.ones(6))))
    assert loss.item() == 0.0
    loss.backward()
    assert module.policy.weight.grad is not None
    assert not module.policy.weight.grad.any()


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_training_prefers_the_better_rows(loss: Any) -> None:
    beta = 0.1 if loss == "dpo" else 2.0  # IPO's target of 1 / (2 beta) nats, small enough for SGD at rate 1
    module, stats = Tokens(60, critic=False), Stats()
    fit(module, Filtration("best_worst", keep=2), PreferenceUpdate(loss, beta=beta, max_grad_norm=0.2), stats)
    first, last = stats.seen[0], stats.seen[-1]
    assert last["update/preference_loss"] < first["update/preference_loss"]
    assert last["update/preference_accuracy"] > first["update/preference_accuracy"]
    margins = [
        seen["update/implicit_reward_chosen"] - seen["update/implicit_reward_rejected"] for seen in (first, last)
    ]
    assert margins[1] > margins[0]


class Watched(Tokens):
    """Keeps the groups of every pass."""

    def __init__(self) -> None:
        super().__init__(critic=False)
        self.groups: list[list[int]] = []

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        self.groups.append(rollout.group_ids.tolist())
        evaluation: ActionEvaluation = super().evaluate_actions(rollout)
        return evaluation


def test_pairs_stay_together_in_minibatches_and_passes() -> None:
    """Rows 2k and 2k + 1 are a pair, in any order of pairs, and a pass never takes one without the other."""
    rows = _rollout().select(torch.arange(6).repeat(4)).replace(group_ids=torch.arange(24))
    parts = [part.group_ids for part in minibatches(rows, 6, torch.Generator().manual_seed(0), together=2)]
    assert [len(part) for part in parts] == [6] * 4
    for part in parts:
        assert (part[0::2] % 2 == 0).all()
        assert (part[1::2] == part[0::2] + 1).all()
    together = torch.cat(parts).tolist()
    assert sorted(together) == list(range(24)) != together
    module = Watched()
    fit(module, Filtration("best_worst", keep=2), PreferenceUpdate(minibatch_size=4, microbatch_size=2))
    assert module.passes == [2] * 4
    assert sorted(module.groups[-4:]) == [[group, group] for group in range(4)]


def test_a_run_that_has_no_pairs_stops_before_training() -> None:
    wrong = [
        ([], "4 of num_samples=4 are kept; add `--filter Filtration --filter.strategy best_worst"),
        ([Filtration("best_of_n", keep=1)], "1 of num_samples=4 are kept"),
    ]
    for filters, message in wrong:
        module = Tokens(critic=False)
        with pytest.raises(ValueError, match=message):
            fit(module, *filters, PreferenceUpdate())
        assert module.iteration == 0


def test_bad_input_is_named() -> None:
    rollout = _rollout()
    with pytest.raises(ValueError, match="about two rows of a group, got 6"):
        PreferenceUpdate().pairs(rollout.replace(group_ids=torch.zeros(6, dtype=torch.int64)))
    with pytest.raises(ValueError, match="measured from a reference policy"):
        PreferenceUpdate().pairs(rollout.replace(ref_log_probs=None))
    with pytest.raises(ValueError, match="call pairs first"):
        PreferenceUpdate().loss(Tokens(), rollout)
    for options, message in (
        ({"loss": "kto"}, "loss must be dpo or ipo, got 'kto'"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing belongs to dpo"),
        ({"minibatch_size": 5}, "minibatch_size counts rows, two a pair, and must be even, got 5"),
        ({"microbatch_size": 1}, "microbatch_size counts rows"),
    ):
        wrong: Any = options
        with pytest.raises(ValueError, match=message):
            PreferenceUpdate(**wrong)
