"""What PPO and REINFORCE make of one rollout, against the functions they call and numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tamis.callbacks import ImitationUpdate, PPOUpdate, PreferenceUpdate, ReinforceUpdate
from tamis.callbacks.minibatches import mean_stats, minibatches
from tamis.functional import (
    KLEstimator,
    LossAggregation,
    gae,
    kl_divergence,
    masked_mean,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_loss,
    shape_rewards,
)
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.rollout import Rollout

TRAINER = cast(Trainer, None)  # the updates ask the trainer for nothing
B, T = 4, 3


class Module:
    """A table instead of a network: log-probability, entropy and value of every row and step."""

    device, global_rank, iteration = torch.device("cpu"), 0, 0

    def __init__(self) -> None:
        self.log_probs = (-1 - torch.rand(B, T)).requires_grad_()
        self.entropy = torch.rand(B, T).requires_grad_()
        self.values = torch.randn(B, T).requires_grad_()
        self.seen: list[Rollout] = []
        self.steps: list[tuple[Tensor | None, float | None]] = []
        self.losses: list[Tensor] = []

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        rows = rollout.actions[:, 0]
        self.seen.append(rollout)
        return ActionEvaluation(self.log_probs[rows], self.entropy[rows], self.values[rows])

    def optimize(
        self,
        loss: Sequence[Callable[[], Tensor]],
        environment_loss: Tensor | None = None,
        max_grad_norm: float | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        self.losses.append(torch.stack([part() for part in loss]))
        self.steps.append((environment_loss, max_grad_norm))
        return {}


def _policy(module: Module) -> PolicyModule:
    return cast(PolicyModule, module)


def _rollout() -> Rollout:
    """Groups 5 and 2, interleaved, with rewards (1, 3) and (10, 20)."""
    return Rollout(
        group_ids=torch.tensor([5, 2, 5, 2]),
        actions=torch.arange(B).unsqueeze(1).expand(B, T),
        response_mask=torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool),
        rewards=torch.tensor([1.0, 10.0, 3.0, 20.0]),
        log_probs=-1 - torch.rand(B, T),
        ref_log_probs=-1 - torch.rand(B, T),
        values=torch.randn(B, T),
        advantages=torch.randn(B, T),
        returns=torch.randn(B, T),
    )


@pytest.mark.parametrize("how", get_args(LossAggregation))
def test_ppo_adds_its_three_terms(how: LossAggregation) -> None:
    module, rollout = Module(), _rollout()
    assert rollout.log_probs is not None
    assert rollout.advantages is not None
    assert rollout.values is not None
    assert rollout.returns is not None
    mask = rollout.response_mask
    update = PPOUpdate(clip_range=0.1, value_clip_range=0.3, value_coef=0.7, entropy_coef=0.2, loss_aggregation=how)
    policy = ppo_policy_loss(module.log_probs, rollout.log_probs, rollout.advantages, mask, 0.1, how)[0]
    value = ppo_value_loss(module.values, rollout.values, rollout.returns, mask, 0.3, how)
    entropy = masked_mean(module.entropy, mask)
    loss, stats = update.loss(_policy(module), rollout)
    torch.testing.assert_close(loss, policy + 0.7 * value - 0.2 * entropy)
    torch.testing.assert_close(stats["update/policy_loss"], policy.detach())
    torch.testing.assert_close(stats["update/value_loss"], value.detach())
    torch.testing.assert_close(stats["update/entropy"], entropy.detach())
    assert not any(stat.requires_grad for stat in stats.values())


@pytest.mark.parametrize("how", get_args(LossAggregation))
def test_reinforce_adds_its_two_terms(how: LossAggregation) -> None:
    module, rollout = Module(), _rollout()
    mask, advantages = rollout.response_mask, torch.randn(B)
    policy = reinforce_loss(module.log_probs, advantages, mask, how)
    entropy = masked_mean(module.entropy, mask)
    update = ReinforceUpdate(entropy_coef=0.2, loss_aggregation=how)
    loss, stats = update.loss(_policy(module), rollout.replace(advantages=advantages))
    torch.testing.assert_close(loss, policy - 0.2 * entropy)
    torch.testing.assert_close(stats["update/policy_loss"], policy.detach())


def test_the_policy_that_acted_is_a_constant() -> None:
    """At equal parameters the ratio is 1 with a gradient; were the old log-probabilities not cut off, it would be 0."""
    module, rollout = Module(), _rollout()
    update = PPOUpdate(value_coef=0.0)
    loss, _ = update.loss(_policy(module), rollout.replace(log_probs=module.log_probs))
    loss.backward()
    assert module.log_probs.grad is not None
    assert (module.log_probs.grad[rollout.response_mask] != 0).all()


@pytest.mark.parametrize("estimator", get_args(KLEstimator))
def test_ppo_estimates_by_gae_of_the_shaped_rewards(estimator: KLEstimator) -> None:
    rollout = _rollout()
    assert rollout.log_probs is not None
    assert rollout.ref_log_probs is not None
    assert rollout.rewards is not None
    assert rollout.values is not None
    update = PPOUpdate(kl_coef=0.5, kl_estimator=estimator, gamma=0.9, lam=0.4, whiten_advantages=False)
    kl = kl_divergence(rollout.log_probs, rollout.ref_log_probs, estimator)
    shaped = shape_rewards(rollout.rewards, kl, rollout.response_mask, 0.5)
    advantages, returns = gae(shaped, rollout.values, rollout.response_mask, gamma=0.9, lam=0.4)
    estimated = update.estimate_advantages(rollout)
    torch.testing.assert_close(estimated.advantages, advantages)
    torch.testing.assert_close(estimated.returns, returns)
    update.whiten_advantages = True
    whitened = update.estimate_advantages(rollout).advantages
    assert whitened is not None
    valid = whitened[rollout.response_mask]
    assert valid.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert valid.var(correction=0).item() == pytest.approx(1.0, abs=1e-5)


#: 1 - 3, 10 - 20, 3 - 1, 20 - 10, and the distances from the groups' means 2 and 15.
BY_HAND = {
    "leave_one_out": [-2.0, -10.0, 2.0, 10.0],
    "group_mean": [-1.0, -5.0, 1.0, 5.0],
    "none": [1.0, 10.0, 3.0, 20.0],
}


@pytest.mark.parametrize("baseline", BY_HAND)
def test_baselines_by_hand_on_interleaved_groups(baseline: Any) -> None:
    assert ReinforceUpdate(baseline).estimate_advantages(_rollout()).tolist() == BY_HAND[baseline]
    if baseline == "leave_one_out":
        update = PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0, whiten_advantages=False)
        advantages = update.estimate_advantages(_rollout()).advantages
        assert advantages is not None
        expected = torch.tensor(BY_HAND[baseline]).unsqueeze(1) * _rollout().response_mask
        assert advantages.tolist() == expected.tolist()


@pytest.mark.parametrize(("baseline", "size"), [("group_mean", 1.0), ("leave_one_out", 2.0)])
def test_grpo_divides_by_the_deviation_of_the_group(baseline: Any, size: float) -> None:
    """Deviations 1 and 5 of the groups (1, 3) and (10, 20), whose rows lie in turn."""
    advantages = ReinforceUpdate(baseline, scale_by_std=True).estimate_advantages(_rollout())
    torch.testing.assert_close(advantages, size * torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="baseline=none knows no groups"):
        ReinforceUpdate("none", scale_by_std=True)


def test_the_penalty_is_summed_over_the_steps_taken() -> None:
    """log pi - log pi_ref is 1 at every step, so rows of 3, 1, 2, 3 steps lose that much at kl_coef 1."""
    rollout = _rollout().replace(log_probs=torch.zeros(B, T), ref_log_probs=torch.full((B, T), -1.0))
    assert ReinforceUpdate("none", kl_coef=1.0).estimate_advantages(rollout).tolist() == [-2.0, 9.0, 1.0, 17.0]
    # -2 - 1 = -3, 9 - 17 = -8 and their opposites.
    leave_one_out = ReinforceUpdate(kl_coef=1.0).estimate_advantages(rollout)
    assert leave_one_out.tolist() == [-3.0, -8.0, 3.0, 8.0]
    # Their groups' means are -0.5 and 13; the mean of all, which the running mean starts from, is 6.25.
    assert ReinforceUpdate("group_mean", kl_coef=1.0).estimate_advantages(rollout).tolist() == [-1.5, -4.0, 1.5, 4.0]
    running = ReinforceUpdate("running_mean", kl_coef=1.0).estimate_advantages(rollout)
    assert running.tolist() == [-8.25, 2.75, -5.25, 10.75]
    ppo = PPOUpdate(advantage_estimator="leave_one_out", kl_coef=1.0, whiten_advantages=False)
    assert cast(Tensor, ppo.estimate_advantages(rollout).advantages)[:, 0].tolist() == leave_one_out.tolist()


def test_the_running_mean_is_that_of_the_iterations_before() -> None:
    """Means 8, 0, 0 at momentum 3/4: baselines 8 (its own at the start), 8, then 3/4 * 8 = 6."""
    update = ReinforceUpdate("running_mean", momentum=0.75)
    rollout = _rollout()
    baselines = [
        mean - float(update.estimate_advantages(rollout.replace(rewards=torch.full((B,), mean)))[0])
        for mean in (8.0, 0.0, 0.0)
    ]
    assert baselines == [8.0, 8.0, 6.0]


@pytest.mark.parametrize("update", [PPOUpdate(), ReinforceUpdate("none"), ReinforceUpdate()])
def test_no_gradient_flows_through_rewards(update: Any) -> None:
    rollout = _rollout()
    assert rollout.rewards is not None
    estimated = update.estimate_advantages(rollout.replace(rewards=rollout.rewards.requires_grad_()))
    advantages: Any = estimated.advantages if isinstance(estimated, Rollout) else estimated
    assert not advantages.requires_grad


@pytest.mark.parametrize(
    "update",
    [
        PPOUpdate(epochs=2, minibatch_size=2, max_grad_norm=0.5),
        ReinforceUpdate(minibatch_size=1, max_grad_norm=0.5),
        ImitationUpdate(minibatch_size=1, max_grad_norm=0.5),
        PreferenceUpdate(minibatch_size=2, max_grad_norm=0.5),
    ],
)
def test_the_environment_learns_once_and_its_graph_is_used_once(update: Any) -> None:
    module, weight = Module(), torch.ones(B, requires_grad=True)
    observed = {"image": (weight * 2).unsqueeze(1)}
    update.update(TRAINER, _policy(module), _rollout().replace(environment_loss=weight * 3, observations=observed))
    environment_losses, norms = zip(*module.steps, strict=True)
    steps = 2 if isinstance(update, PreferenceUpdate) else 4  # of two pairs, or of four rows
    assert environment_losses[0].item() == 3.0
    assert environment_losses[1:] == (None,) * (steps - 1)
    assert norms == (0.5,) * steps
    assert [seen.observations["image"].requires_grad for seen in module.seen] == [True] + [False] * (steps - 1)


def test_explained_variance_by_hand() -> None:
    """Returns 0, 2, 4 (variance 8/3), values 0, 1, 2 (errors' variance 2/3): 1 - 1/4. Padding does not count."""
    mask = torch.tensor([[True, True, True, False]])
    rollout = Rollout(torch.tensor([0]), torch.zeros(1, 4, dtype=torch.int64), mask, rewards=torch.tensor([4.0]))
    module = Module()
    module.log_probs = module.entropy = module.values = torch.zeros(1, 4)
    update = PPOUpdate(kl_coef=0.0, gamma=1.0, lam=1.0)
    rollout = rollout.replace(log_probs=torch.zeros(1, 4), values=torch.tensor([[0.0, 1.0, 2.0, 0.0]]))
    stats = update.update(TRAINER, _policy(module), rollout)
    assert stats["update/explained_variance"].isnan()  # the return of every step is 4
    rollout = rollout.replace(returns=torch.tensor([[0.0, 2.0, 4.0, 0.0]]))
    update.estimate_advantages = lambda rollout: rollout.replace(advantages=torch.zeros(1, 4))  # type: ignore[method-assign]
    assert update.update(TRAINER, _policy(module), rollout)["update/explained_variance"].item() == pytest.approx(0.75)


def _orders(seed: int, epochs: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    rows = _rollout().select(torch.arange(B).repeat(6)).replace(group_ids=torch.arange(24))
    parts = [part for _ in range(epochs) for part in minibatches(rows, 6, generator)]
    assert [len(part) for part in parts] == [6] * 4 * epochs
    return [row for part in parts for row in part.group_ids.tolist()]


def test_minibatches_hold_every_row_once_in_an_order_of_the_generator() -> None:
    torch.manual_seed(1)
    first = _orders(0)
    torch.manual_seed(2)
    assert first == _orders(0) != _orders(1)
    assert sorted(first) == list(range(24)) != first
    both = _orders(0, epochs=2)
    assert both[:24] == first != both[24:]
    assert sorted(both[24:]) == sorted(first)


@pytest.mark.parametrize("size", [None, B])
def test_one_minibatch_of_all_rows_keeps_their_order(size: int | None) -> None:
    rollout = _rollout()
    assert [part is rollout for part in minibatches(rollout, size, torch.Generator())] == [True]


def test_statistics_are_averaged_over_the_steps_that_report_them() -> None:
    means = mean_stats([{"a": torch.tensor(1), "b": torch.tensor(5.0)}, {"a": torch.tensor(2)}])
    assert {name: value.item() for name, value in means.items()} == {"a": 1.5, "b": 5.0}
