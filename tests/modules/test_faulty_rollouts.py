"""Bad images and bad rewards in the two programs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import EnvironmentUpdate, Filtration, MaskDiagnostics, PPOUpdate, ReinforceUpdate, RolloutMetrics
from tamis.modules import CodePolicy, NoiseMaskPretraining, RepeatedFaults, Reward

from .small.masks import noise_mask

Tasks = list[dict[str, object]]


class States(Callback):
    """Weights, buffers and what optimisers and callbacks remember, after every iteration."""

    def __init__(self) -> None:
        self.after: list[dict[str, Any]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        state = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        for number, optimizer in enumerate(trainer.optimizers):
            for parameter, kept in optimizer.state_dict()["state"].items():
                state |= {
                    f"{number}.{parameter}.{name}": torch.as_tensor(value).clone() for name, value in kept.items()
                }
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state |= {f"{callback.state_key}.{name}": value for name, value in callback.state_dict().items()}
        self.after.append(state)
        self.metrics.append({name: float(value) for name, value in trainer.logged_metrics.items()})

    def same(self, one: int, other: int) -> bool:
        left, right = self.after[one], self.after[other]
        return left.keys() == right.keys() and all(
            torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name]
            for name, value in left.items()
        )


def _fit(module: LightningModule, loader: Any, *callbacks: Callback, held_out: Any = None, **options: Any) -> States:
    states = States()
    trainer = Trainer(
        max_epochs=-1 if isinstance(module, CodePolicy) else 1,
        accelerator="cpu",
        callbacks=[*callbacks, states],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, loader, held_out)
    return states


def _bad_images(bad: int, batches: int = 4) -> DataLoader[Any]:
    images = torch.randn(batches, 4, 3, 32, 32)
    images[bad, 3, 0, 7, 7] = torch.inf
    return DataLoader([(one, torch.arange(4) % 3) for one in images], batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "callbacks"),
    [
        (noise_mask(decay=0.9), [ReinforceUpdate("running_mean", entropy_coef=0.1)]),
        (noise_mask(decay=0.9), [Filtration("best_random", keep=1), ReinforceUpdate("running_mean")]),
        (noise_mask(), [PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0, epochs=2)]),
        (noise_mask(objective="official"), [EnvironmentUpdate()]),
        (noise_mask(objective="random"), [EnvironmentUpdate()]),
    ],
    ids=["reinforce", "filtered", "ppo", "official", "random"],
)
def test_a_bad_image_leaves_no_trace_in_a_noise_mask(module: NoiseMaskPretraining, callbacks: list[Callback]) -> None:
    """None in the networks, their batch statistics, the policy's and the update's running averages; and on it goes."""
    with pytest.warns(UserWarning, match="no step at iteration 2 .* the reward is nan"):
        states = _fit(module, _bad_images(1), *callbacks, RolloutMetrics())
    assert states.same(0, 1)
    assert not states.same(1, 2)
    assert module.skipped_steps == 1
    assert all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())
    assert states.metrics[1]["update/skipped_steps"] == 1
    assert all(torch.isfinite(torch.tensor(list(states.metrics[number].values()))).all() for number in (0, 2, 3))


@pytest.mark.parametrize("limit", [2, 1])
@pytest.mark.filterwarnings("ignore:no step at", "ignore:The mask policy", "ignore:MaskDiagnostics")
def test_the_diagnostics_twin_does_not_see_it_either(limit: int) -> None:
    """Also where it ends the run: the twin that a checkpoint then keeps is a good one."""
    module, diagnostics = noise_mask(decay=0.9), MaskDiagnostics(images=4, draws=1, gradient_draws=0)
    module.max_faulty_steps = limit
    held_out: DataLoader[Any] = DataLoader([(torch.randn(4, 3, 32, 32), torch.arange(4) % 3)], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(RepeatedFaults) if limit == 1 else nullcontext():
        _fit(module, _bad_images(1, batches=3), ReinforceUpdate(), diagnostics, held_out=held_out)
    assert module.skipped_steps == 1
    assert diagnostics.twin is not None
    assert all(bool(buffer.isfinite().all()) for buffer in diagnostics.twin.buffers())


def test_a_bad_image_in_bfloat16_is_skipped_too() -> None:
    module = noise_mask(decay=0.9)
    with pytest.warns(UserWarning, match="no step at iteration 2"):
        states = _fit(module, _bad_images(1, batches=2), ReinforceUpdate(), precision="bf16-mixed")
    assert states.same(0, 1)


class Lengths(Reward):
    """Characters of a completion; in some iterations no number at all, or none for some."""

    def __init__(self, none: Sequence[int] = (), some: Sequence[int] = ()) -> None:
        super().__init__()
        self.none, self.some, self.calls = none, some, 0

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        self.calls += 1
        rewards = torch.tensor([float(len(text)) for text in completions])
        if self.calls in self.none:
            rewards[:] = torch.nan
        if self.calls in self.some:
            rewards[::3] = -torch.inf
        return rewards


class Ranked(Filtration):
    """Notes the rewards that it ranks."""

    def on_rollout(self, trainer: Trainer, module: Any, rollout: Any) -> Any:
        self.ranked: list[Tensor] = [*getattr(self, "ranked", []), rollout.rewards]
        return super().on_rollout(trainer, module, rollout)


def test_an_iteration_without_any_reward_is_skipped(tiny_model: str, tasks: Tasks) -> None:
    """A filter ranks finite numbers only; a row without one has the mean of its prompt's others."""
    reward, filtration = Lengths(none=[2], some=[3]), Ranked("best_worst", keep=2)
    module = CodePolicy(tiny_model, reward, num_samples=4, max_new_tokens=6, max_iterations=3)
    update = PPOUpdate(kl_coef=0.1, kl_target=1.0)
    loader: DataLoader[Any] = DataLoader(tasks[:4], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    with pytest.warns(UserWarning) as warnings:  # noqa: PT030 - two of them are looked for
        states = _fit(module, loader, RolloutMetrics(), filtration, update)
    told = [str(warning.message) for warning in warnings]
    (skipped,) = [text for text in told if text.startswith("no step at")]
    assert skipped.startswith("no step at iteration 2 (batch 1 of the epoch: ")
    assert "the reward is nan (Lengths gave no finite number for any of 8 completions" in skipped
    assert any("3 of 8 completions got no finite reward from Lengths" in text for text in told)
    assert states.same(0, 1)
    assert not states.same(1, 2)
    assert len(filtration.ranked) == 2
    assert all(bool(rewards.isfinite().all()) for rewards in filtration.ranked)
    assert states.metrics[2]["rollout/reward_failures"] == 3
    assert (module.iteration, module.skipped_steps, module.faulty_in_a_row) == (3, 1, 0)


def test_an_infinite_critic_steps_nothing_and_is_named(tiny_model: str, tasks: Tasks) -> None:
    """Its loss is the policy's, too, and so no optimiser moves; the penalty's adaptive weight stays finite."""
    module = CodePolicy(tiny_model, Lengths(), num_samples=2, max_new_tokens=4, max_iterations=4)
    assert module.critic is not None
    with torch.no_grad():
        next(module.critic.parameters()).fill_(torch.inf)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.max_faulty_steps = 3
    update = PPOUpdate(kl_coef=0.1, kl_target=1.0)
    loader: DataLoader[Any] = DataLoader(tasks[:4], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    with pytest.raises(
        RepeatedFaults, match="3 steps in a row .* iteration 3 .* the loss is nan .* of the critic is nan"
    ):
        _fit(module, loader, update)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert 0 < update.kl_coef < 1


def test_a_divergence_that_is_no_number_does_not_move_the_penaltys_weight() -> None:
    update = PPOUpdate(kl_coef=0.1, kl_target=1.0)
    assert update._adapt(torch.nan)["update/kl_coef"] == 0.1
    assert update.kl_coef == 0.1
    update._adapt(5.0)
    assert update.kl_coef > 0.1
