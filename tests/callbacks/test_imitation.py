"""RAFT and BOND: what is imitated, and what the ranks of the others teach."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tamis.callbacks import Filtration, ImitationUpdate, RolloutMetrics
from tamis.functional import reinforce_loss
from tamis.rollout import Rollout

from .fixed.tokens import ROWS, TOKENS, N, Stats, Tokens, fit


def _best(rollout: Rollout) -> Tensor:
    """``[B]`` 1 at the best row of each group of neighbours."""
    assert rollout.rewards is not None
    best = rollout.rewards.view(-1, N).argmax(dim=1) + N * torch.arange(ROWS // N)
    return torch.zeros(ROWS).index_fill(0, best, 1.0)


def test_a_uniform_policy_by_hand() -> None:
    """Each of 5 tokens costs log 5; the kept rows have 1 and 3 tokens, so their mean sum is 2 log 5."""
    module = Tokens()
    for parameter in module.policy.parameters():
        torch.nn.init.zeros_(parameter)
    rows = module.drawn.select(torch.tensor([0, 9]))
    assert rows.response_mask.sum(1).tolist() == [1, 3]
    for how, cost in (("token_mean", 1.0), ("seq_mean", 1.0), ("seq_sum", 2.0)):
        loss, stats = ImitationUpdate(loss_aggregation=how).loss(module, rows)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(cost * math.log(TOKENS))
        assert stats["update/imitation_loss"].item() == loss.item()
        # Of all 16 rows with those two marked, the same: the others are in no loss.
        marked = module.drawn.replace(kept=torch.zeros(ROWS).index_fill(0, torch.tensor([0, 9]), 1.0))
        assert ImitationUpdate(loss_aggregation=how).loss(module, marked)[0].item() == pytest.approx(loss.item())  # type: ignore[arg-type]


def test_raft_is_the_cross_entropy_of_the_best() -> None:
    """One step of SGD at rate 1 against autograd of torch's own cross-entropy on the best row of each group."""
    module, reference = Tokens(critic=False), Tokens(critic=False)
    fit(module, Filtration("best_of_n", keep=1), ImitationUpdate())
    best = _best(reference.drawn).bool()
    mask = reference.drawn.response_mask[best]
    logits = reference.policy(reference.drawn.observations["features"][best])[mask]
    F.cross_entropy(logits, reference.drawn.actions[best][mask]).backward()
    assert reference.policy.weight.grad is not None
    stepped = reference.policy.weight - reference.policy.weight.grad
    torch.testing.assert_close(module.policy.weight, stepped)


def test_bond_s_advantages_by_hand() -> None:
    """Quantiles of (4, 1, 3, 3) are 1, 1/4, 3/4, 3/4; less a quarter nat a step for rows of 1, 2, 1 and 2 steps."""
    module = Tokens()
    rollout = module.drawn.select(torch.arange(4)).replace(rewards=torch.tensor([4.0, 1.0, 3.0, 3.0]))
    logs = [0.0, math.log(1 / 4), math.log(3 / 4), math.log(3 / 4)]
    alone = [log - (sum(logs) - log) / 3 for log in logs]
    assert ImitationUpdate(1.0).estimate_advantages(rollout).tolist() == pytest.approx(alone)
    assert rollout.response_mask.sum(1).tolist() == [1, 2, 1, 2]
    ones = torch.ones_like(rollout.actions, dtype=torch.float32)
    rollout = rollout.replace(log_probs=ones, ref_log_probs=0 * ones)
    logs = [log - steps / 4 for log, steps in zip(logs, (1, 2, 1, 2), strict=True)]
    penalised = [log - (sum(logs) - log) / 3 for log in logs]
    assert ImitationUpdate(1.0, 0.25).estimate_advantages(rollout).tolist() == pytest.approx(penalised)


def test_bond_adds_both_divergences() -> None:
    module = Tokens()
    advantages = torch.randn(ROWS)
    rows = module.drawn.replace(kept=_best(module.drawn), advantages=advantages)
    forward, _ = ImitationUpdate(loss_aggregation="seq_sum").loss(module, rows)
    backward = reinforce_loss(module.evaluate_actions(rows).log_probs, advantages, rows.response_mask, "seq_sum")
    loss, stats = ImitationUpdate(0.7, loss_aggregation="seq_sum").loss(module, rows)
    torch.testing.assert_close(loss, forward + 0.7 * backward)
    torch.testing.assert_close(stats["update/policy_loss"], backward.detach())
    torch.testing.assert_close(stats["update/imitation_loss"], forward.detach())
    with pytest.raises(ValueError, match="call estimate_advantages first"):
        ImitationUpdate(0.7).loss(module, module.drawn)


@pytest.mark.parametrize("minibatch_size", [None, ROWS])
def test_a_step_of_bond_is_that_of_its_two_sums(minibatch_size: int | None) -> None:
    """SGD at rate 1 against autograd of the best rows' mean over 4 and of all rows' mean over 16."""
    module, reference = Tokens(critic=False), Tokens(critic=False)
    update = ImitationUpdate(0.7, loss_aggregation="seq_sum", minibatch_size=minibatch_size)
    fit(module, Filtration("best_of_n", keep=1), update)
    rows = reference.drawn
    log_probs = (reference.evaluate_actions(rows).log_probs * rows.response_mask).sum(dim=1)
    forward = -(log_probs * _best(rows)).sum() / 4
    backward = -(log_probs * update.estimate_advantages(rows)).sum() / 16
    (forward + 0.7 * backward).backward()
    assert reference.policy.weight.grad is not None
    torch.testing.assert_close(module.policy.weight, reference.policy.weight - reference.policy.weight.grad)


def _gain(*callbacks: Any, iterations: int = 1) -> Tensor:
    """``[B]`` by how much the log-probability of each row has grown."""
    module = Tokens(iterations, critic=False)
    before = module.evaluate_actions(module.drawn).log_probs.detach()
    fit(module, *callbacks)
    after = module.evaluate_actions(module.drawn).log_probs.detach()
    gain: Tensor = ((after - before) * module.drawn.response_mask).sum(dim=1)
    return gain


def test_the_best_become_more_likely_and_bond_pushes_the_worst_down() -> None:
    best = _best(Tokens().drawn).bool()
    rewards = Tokens().drawn.rewards
    assert rewards is not None
    worst = torch.zeros(ROWS, dtype=torch.bool)
    worst[rewards.view(-1, N).argmin(dim=1) + N * torch.arange(ROWS // N)] = True
    raft = _gain(Filtration("best_of_n", keep=1), ImitationUpdate())
    bond = _gain(Filtration("best_of_n", keep=1), ImitationUpdate(4.0))
    assert raft[best].mean() > 0
    assert bond[best].mean() > 0
    assert bond[worst].mean() < min(0.0, float(raft[worst].mean()))


@pytest.mark.parametrize("update", [ImitationUpdate(), ImitationUpdate(1.0, 0.1)], ids=["raft", "bond"])
def test_its_loss_falls(update: ImitationUpdate) -> None:
    stats = Stats()
    fit(Tokens(20, critic=False), RolloutMetrics(), Filtration("best_of_n", keep=1), update, stats)
    losses = [seen["update/imitation_loss"].item() for seen in stats.seen]
    assert losses[-1] < losses[0] - 0.1


def test_the_rows_that_pass_through_the_model() -> None:
    """RAFT evaluates the kept rows alone, in one step or several; BOND all of them."""
    for update, passes in (
        (ImitationUpdate(), [4]),
        (ImitationUpdate(minibatch_size=2, microbatch_size=1), [1] * 4),
        (ImitationUpdate(1.0, minibatch_size=8), [8, 8]),
    ):
        module = Tokens(critic=False)
        fit(module, Filtration("best_of_n", keep=1), update)
        assert module.passes == passes


@pytest.mark.parametrize("filters", [[], [Filtration("none")], [Filtration("random", keep=1)]])
def test_without_a_choice_there_is_nothing_to_imitate(filters: list[Any]) -> None:
    module = Tokens(critic=False)
    with pytest.raises(ValueError, match=r"--filter Filtration --filter.strategy best_of_n --filter.keep 1"):
        fit(module, *filters, ImitationUpdate())
    assert module.iteration == 0


def test_options_without_effect_or_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"backward_kl_coef=0.1 .* does nothing without it"):
        ImitationUpdate(backward_kl_coef=0.1)
    with pytest.raises(ValueError, match="must not be negative, got -1.0"):
        ImitationUpdate(-1.0)
    with pytest.raises(ValueError, match="no multiple of microbatch_size"):
        ImitationUpdate(minibatch_size=6, microbatch_size=4)
    with pytest.raises(ValueError, match=r"backward_kl_coef needs a reference .* `--update.backward_kl_coef=0`"):
        ImitationUpdate(1.0, 0.1).estimate_advantages(Tokens().drawn)
