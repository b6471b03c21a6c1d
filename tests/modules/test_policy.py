"""The loop itself, on a bandit whose optimum is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, ImitationUpdate, PolicyCallback, PPOUpdate, ReinforceUpdate, RolloutMetrics
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.rollout import Rollout

ARMS = torch.tensor([0.0, 0.2, 1.0, 0.4])


class Bandit(PolicyModule):
    """Every group draws N arms from one softmax; arm 2 pays most. A real, if small, policy."""

    def __init__(self, max_iterations: int | None = None, num_samples: int = 4, critic: bool = False) -> None:
        super().__init__(max_iterations)
        self.num_samples = num_samples
        self.logits = nn.Linear(1, 4, bias=False)
        nn.init.zeros_(self.logits.weight)
        self.value = nn.Linear(1, 1) if critic else None
        self.completed_rows: list[int] = []

    def networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"policy": self.logits}
        return networks if self.value is None else networks | {"critic": self.value}

    def act(self, batch: Tensor) -> Rollout:
        groups = torch.arange(len(batch)).repeat_interleave(self.num_samples)
        probabilities = torch.softmax(self.logits.weight[:, 0].detach(), 0)
        actions = torch.multinomial(probabilities, len(groups), replacement=True).unsqueeze(1)
        return Rollout(groups, actions, torch.ones_like(actions, dtype=torch.bool))

    def reward(self, rollout: Rollout) -> Rollout:
        return rollout.replace(rewards=ARMS[rollout.actions[:, 0]])

    def complete(self, rollout: Rollout) -> Rollout:
        self.completed_rows.append(len(rollout))
        with torch.no_grad():
            evaluation = self.evaluate_actions(rollout)
        return rollout.replace(log_probs=evaluation.log_probs, values=evaluation.values)

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        log_softmax = torch.log_softmax(self.logits.weight[:, 0], 0)
        entropy = -(log_softmax.exp() * log_softmax).sum()
        one = torch.ones(len(rollout), 1)
        values = None if self.value is None else self.value(one)
        return ActionEvaluation(log_softmax[rollout.actions], entropy.expand(len(rollout), 1), values)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(network.parameters(), lr=0.5) for network in self.networks().values()]


class Recorder(PolicyCallback):
    """Notes the order in which the loop calls, and what it saw."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rows: list[tuple[int, int]] = []
        self.stats: list[Mapping[str, Tensor]] = []
        self._seen = 0

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        self.calls.append("rollout")
        self._seen = len(rollout)
        return rollout

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        self.calls.append("update")
        self.rows.append((self._seen, len(rollout)))
        self.stats.append(stats)


def _fit(module: Bandit, *callbacks: Any, groups: int = 8) -> Trainer:
    trainer = Trainer(
        max_epochs=-1,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.zeros(groups, 1), batch_size=groups))  # type: ignore[arg-type]
    return trainer


def _best_arm_probability(module: Bandit) -> float:
    return float(torch.softmax(module.logits.weight[:, 0], 0)[2])


@pytest.mark.parametrize(
    "callbacks",
    [
        [ReinforceUpdate(baseline="leave_one_out")],
        [ReinforceUpdate(baseline="group_mean")],
        [ReinforceUpdate(baseline="running_mean")],
        [ReinforceUpdate(baseline="none")],
        [PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0)],
        [PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0, epochs=2, minibatch_size=16)],
        [Filtration("best_worst", keep=2), ReinforceUpdate()],
        [Filtration("best_random", keep=2), PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0)],
        [ReinforceUpdate(baseline="group_mean", scale_by_std=True)],
        [Filtration("best_of_n", keep=1), ImitationUpdate()],
        [Filtration("best_of_n", keep=1), ImitationUpdate(backward_coef=1.0)],
    ],
    ids=[
        "rloo",
        "group_mean",
        "running_mean",
        "no_baseline",
        "ppo",
        "ppo_minibatches",
        "bw_rloo",
        "br_ppo",
        "grpo",
        "raft",
        "bond",
    ],
)
def test_every_combination_finds_the_best_arm(callbacks: list[Any]) -> None:
    module = Bandit(max_iterations=60)
    _fit(module, *callbacks)
    assert _best_arm_probability(module) > 0.6  # from 0.25


def test_ppo_with_a_critic_finds_the_best_arm() -> None:
    module = Bandit(max_iterations=60, critic=True)
    _fit(module, PPOUpdate(kl_coef=0.0, max_grad_norm=None))
    assert _best_arm_probability(module) > 0.6


def test_the_sign_is_right_for_costs_too() -> None:
    """With the rewards turned round the best arm becomes the worst."""

    class Reversed(Bandit):
        def reward(self, rollout: Rollout) -> Rollout:
            return rollout.replace(rewards=-ARMS[rollout.actions[:, 0]])

    module = Reversed(max_iterations=60)
    _fit(module, ReinforceUpdate())
    assert _best_arm_probability(module) < 0.15


@pytest.mark.parametrize("critic", [False, True])
def test_iterations_count_rounds_and_not_optimiser_steps(critic: bool) -> None:
    module = Bandit(max_iterations=5, critic=critic)
    estimator = "gae" if critic else "leave_one_out"
    update = PPOUpdate(epochs=3, kl_coef=0.0, advantage_estimator=estimator)  # type: ignore[arg-type]
    trainer = _fit(module, update)
    assert module.iteration == 5
    assert trainer.global_step == 5 * 3 * (2 if critic else 1)


def test_only_kept_rows_are_completed() -> None:
    module, recorder = Bandit(max_iterations=2), Recorder()
    _fit(module, recorder, RolloutMetrics(), Filtration("best_worst", keep=2), ReinforceUpdate())
    assert recorder.calls == ["rollout", "update"] * 2
    assert recorder.rows == [(32, 16)] * 2
    assert module.completed_rows == [16, 16]


def test_filter_none_equals_no_filter_bit_for_bit() -> None:
    weights = []
    for callbacks in ([], [Filtration("none")]):
        torch.manual_seed(3)
        module = Bandit(max_iterations=5)
        _fit(module, *callbacks, PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0))
        weights.append(module.logits.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])


def test_ratio_is_one_before_the_first_step() -> None:
    module, recorder = Bandit(max_iterations=3), Recorder()
    _fit(module, recorder, PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0))
    for stats in recorder.stats:
        assert stats["update/ratio_max"].item() == pytest.approx(1.0, abs=1e-5)


def test_a_run_without_an_update_says_what_to_add() -> None:
    with pytest.raises(MisconfigurationException, match=r"Bandit needs one update.*--update PPOUpdate"):
        _fit(Bandit(1))


def test_a_run_with_two_updates_names_them() -> None:
    with pytest.raises(MisconfigurationException, match="has 2: PPOUpdate, ReinforceUpdate"):
        _fit(Bandit(1), PPOUpdate(), ReinforceUpdate())


def test_keep_beyond_n_stops_before_training() -> None:
    module = Bandit(1, num_samples=4)
    with pytest.raises(ValueError, match="between 1 and the 4 responses of a group, got 5"):
        _fit(module, Filtration("random", keep=5), ReinforceUpdate())
    assert module.completed_rows == []


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (PPOUpdate(kl_coef=0.1), "kl_coef=0.1 needs a reference policy"),
        (PPOUpdate(kl_coef=0.0), "gae needs a critic.*leave_one_out"),
        (PPOUpdate(kl_coef=0.0, advantage_estimator="leave_one_out", minibatch_size=5), "32 kept rows .* of 5"),
    ],
)
def test_settings_that_do_not_fit_the_policy_are_named(update: PPOUpdate, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _fit(Bandit(1), update)


def test_the_iteration_survives_a_checkpoint() -> None:
    module = Bandit(max_iterations=3)
    trainer = _fit(module, ReinforceUpdate())
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    again = Bandit()
    again.on_load_checkpoint(checkpoint)
    assert again.iteration == 3


def test_callbacks_keep_their_state_apart() -> None:
    first, second = ReinforceUpdate(baseline="running_mean"), ReinforceUpdate(baseline="none")
    assert first.state_key != second.state_key
    module = Bandit(max_iterations=2)
    _fit(module, first)
    restored = ReinforceUpdate(baseline="running_mean")
    restored.load_state_dict(first.state_dict())
    assert restored.state_dict() == first.state_dict() != ReinforceUpdate().state_dict()
