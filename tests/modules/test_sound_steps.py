"""A loss, reward or gradient that is not finite: no step, nothing left behind, and an end after too many in a row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import FaultGuard, PolicyUpdate, RolloutMetrics
from tamis.callbacks.minibatches import mean_stats
from tamis.modules import (
    ActionEvaluation,
    ImageClassifier,
    PolicyModule,
    PreferenceOptimization,
    RepeatedFaults,
    RewardModel,
    SupervisedFineTuning,
)
from tamis.modules.sound_steps import SKIPPED, KeptBuffers, SoundAutomaticSteps
from tamis.rollout import Rollout

Batch = tuple[Tensor, str]  # what goes in, and what goes wrong


class Pair(PolicyModule):
    """A policy and an environment with batch normalisation, which learn to give small numbers; real, if small."""

    environment_networks: ClassVar[frozenset[str]] = frozenset({"environment"})

    def __init__(self, max_iterations: int | None = None) -> None:
        super().__init__(max_iterations)
        torch.manual_seed(0)
        self.policy, self.environment = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))

    def networks(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "environment": self.environment}

    def act(self, batch: Batch) -> Rollout:
        x, fault = batch
        ids = torch.arange(len(x))
        told: list[dict[str, Any]] = [{"fault": fault} for _ in ids]
        actions = torch.ones(len(x), 1)
        return Rollout(ids, actions, actions.bool(), observations={"x": x, "y": self.policy(x)}, records=told)

    def reward(self, rollout: Rollout) -> Rollout:
        fault = rollout.records[0]["fault"]
        cost = (self.environment(rollout.observations["x"]) ** 2).sum(dim=1)
        rewards = torch.where(torch.tensor(fault == "reward"), torch.inf, cost.detach())
        return rollout.replace(rewards=rewards, environment_loss=_broken(cost, fault, "environment"))

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        raise NotImplementedError

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(network.parameters(), lr=0.1) for network in self.networks().values()]


def _broken(values: Tensor, fault: str, kind: str) -> Tensor:
    """The same values, with a gradient that is none."""
    return values + (values * 0).sqrt() if fault == kind else values


class Steps(PolicyUpdate):
    """As many steps an iteration as asked for, each on a forward pass of its own; one of them meets the fault."""

    def __init__(self, steps: int = 1, faulty: int = 0) -> None:
        self.steps, self.faulty = steps, faulty
        self.rewards: list[Tensor] = []
        self.stats: list[dict[str, Tensor]] = []

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        self.rewards.append(cast(Tensor, rollout.rewards))
        taken, none = [], {"loss": torch.nan, "infinite": torch.inf}
        for number in range(self.steps):
            fault = rollout.records[0]["fault"] if number == self.faulty else ""
            y = rollout.observations["y"] if number == 0 else cast(Pair, module).policy(rollout.observations["x"])
            loss = _broken((y**2).sum(dim=1), fault, "gradient").sum() + none.get(fault, 0.0)
            environment = cast(Tensor, rollout.environment_loss).sum() if number == 0 else None
            taken.append({"update/loss": loss.detach(), **module.optimize(loss, environment, 1.0)})
        self.stats.append(mean_stats(taken))
        return taken[0] if self.steps == 1 else self.stats[-1]


def _batches(faults: Sequence[str]) -> list[Batch]:
    """Good batches are the same whatever lies between them."""
    draw = torch.Generator().manual_seed(1)
    good = iter([torch.randn(4, 2, generator=draw) for _ in faults])
    return [(torch.full((4, 2), 7.0), fault) if fault else (next(good), "") for fault in faults]


def _trainer(*callbacks: Any, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False, **quiet, **options}
    return Trainer(callbacks=list(callbacks), **settings)


def _fit(module: LightningModule, batches: Sequence[Any], *callbacks: Any, **options: Any) -> Trainer:
    trainer = _trainer(*callbacks, **options)
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer


def _state(module: LightningModule, trainer: Trainer) -> list[Tensor]:
    """Weights, buffers and whatever the optimisers remember."""
    state = list(module.state_dict().values())
    for optimizer in trainer.optimizers:
        for kept in optimizer.state_dict()["state"].values():
            state += [torch.as_tensor(value) for value in kept.values()]
    return [tensor.clone() for tensor in state if isinstance(tensor, Tensor)]


def _equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("fault", ["reward", "loss", "infinite", "gradient", "environment"])
def test_a_skipped_iteration_is_as_if_it_had_never_been(fault: str) -> None:
    """To the bit: weights, batch statistics with their counters, and Adam's moments."""
    module, update, never = Pair(), Steps(), Pair()
    with pytest.warns(UserWarning, match="no step at iteration 3"):
        trainer = _fit(module, _batches(["", "", fault, "", ""]), update)
    assert _equal(_state(module, trainer), _state(never, _fit(never, _batches([""] * 4), Steps())))
    assert (module.iteration, module.skipped_steps, module.faulty_in_a_row) == (5, 1, 0)
    assert all(bool(rewards.isfinite().all()) for rewards in update.rewards)


@pytest.mark.parametrize("fault", ["reward", "loss"])
def test_a_first_step_that_is_skipped_leaves_what_was_initialised(fault: str) -> None:
    module, untouched = Pair(), Pair()
    with pytest.warns(UserWarning, match="no step at iteration 1"):
        trainer = _fit(module, _batches([fault]), Steps())
    assert _equal(_state(module, trainer), list(untouched.state_dict().values()))
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_of_several_steps_only_the_faulty_one_is_skipped(fault: str) -> None:
    """What the good steps before it made of weights and batch statistics stays."""
    module, update, shorter = Pair(), Steps(steps=3, faulty=2), Pair()
    with pytest.warns(UserWarning, match="no step at iteration 1"):
        trainer = _fit(module, _batches([fault]), update)
    assert _equal(_state(module, trainer), _state(shorter, _fit(shorter, _batches(["fine"]), Steps(steps=2))))
    assert update.stats[0]["update/loss"].isfinite()
    assert SKIPPED not in update.stats[0]


def test_what_was_skipped_is_told_and_logged() -> None:
    """Once, although what watches the update is given its statistics."""
    module, guard = Pair(), FaultGuard(max_in_a_row=3)
    with pytest.warns(UserWarning, match="no step at") as warnings:
        trainer = _fit(module, _batches(["", "loss", "", "environment"]), Steps(), guard, RolloutMetrics())
    told = [text for text in (str(warning.message) for warning in warnings) if text.startswith("no step at")]
    assert told[0].startswith("no step at iteration 2 (batch 1 of the epoch): the loss is nan")
    assert told[1].startswith(
        "no step at iteration 4 (batch 3 of the epoch): the gradient's norm of the environment is"
    )
    assert "1 in a row, 2 in this run (3 in a row end it)" in told[1]
    assert trainer.logged_metrics["update/skipped_steps"] == 1
    assert trainer.logged_metrics["update/skipped_steps_total"] == 2


class Parts(PolicyUpdate):
    """A step in two passes, the first of which has an infinite loss and a good gradient."""

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        y = rollout.observations["y"]
        parts = [lambda: y[:2].sum() + torch.inf, lambda: y[2:].sum()]
        return module.optimize(parts, shared_graph=True)


def test_every_pass_of_a_step_must_be_finite() -> None:
    module = Pair()
    with pytest.warns(UserWarning, match="no step at iteration 1 .* the loss is inf"):
        _fit(module, _batches([""]), Parts())
    assert _equal(list(module.state_dict().values()), list(Pair().state_dict().values()))


@pytest.mark.parametrize("fault", ["reward", "gradient"])
def test_too_many_in_a_row_end_the_run_as_it_was_before_the_first(fault: str) -> None:
    module, never = Pair(), Pair()
    trainer = _trainer(Steps(), FaultGuard(max_in_a_row=3))
    faults = ["", fault, fault, "", fault, fault, fault, ""]
    with pytest.raises(RepeatedFaults, match="3 steps in a row could not be taken, the last at iteration 7") as error:
        trainer.fit(module, DataLoader(_batches(faults), batch_size=None))  # type: ignore[arg-type]
    assert "as it was before iteration 5" in str(error.value)
    assert "lower learning rate" in str(error.value)
    assert module.faulty_in_a_row == 3
    assert _equal(_state(module, trainer), _state(never, _fit(never, _batches(["", ""]), Steps())))


def test_ten_in_a_row_end_a_run_that_has_no_guard() -> None:
    module = Pair()
    with pytest.raises(RepeatedFaults, match="10 steps in a row .* the last at iteration 11"):
        _fit(module, _batches(["", *["loss"] * 12]), Steps())


def test_a_guard_that_lets_nothing_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 .* got 0"):
        FaultGuard(max_in_a_row=0)


def test_the_count_is_in_the_checkpoint(tmp_path: Path) -> None:
    module = Pair()
    with pytest.warns(UserWarning, match="no step"):
        _fit(module, _batches(["", "loss"]), Steps()).save_checkpoint(tmp_path / "run.ckpt")
    resumed, again = Pair(), _trainer(Steps(), max_epochs=2)
    again.fit(resumed, DataLoader(_batches(["", ""]), batch_size=None), ckpt_path=tmp_path / "run.ckpt")  # type: ignore[arg-type]
    assert (resumed.skipped_steps, resumed.faulty_in_a_row) == (1, 0)


def test_every_module_keeps_the_count(tiny_model: str) -> None:
    """Also those that put more into a checkpoint."""
    for make in (SupervisedFineTuning, RewardModel, PreferenceOptimization):
        module, resumed = make(tiny_model), make(tiny_model)
        module.skipped_steps = 3
        checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        resumed.on_load_checkpoint(checkpoint)
        assert resumed.skipped_steps == 3
    classifier = _classifier()
    classifier.on_load_checkpoint(checkpoint)
    assert classifier.skipped_steps == 3


# Modules whose optimiser Lightning steps


def _images(faults: Sequence[bool]) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    good = iter([torch.randn(4, 3, 32, 32, generator=draw) for _ in faults])
    bad = torch.ones(4, 3, 32, 32)
    bad[2, 1, 5, 5] = torch.nan
    return [(bad if fault else next(good), torch.arange(4) % 3) for fault in faults]


def _classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("test_resnet", num_classes=3)


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.5}, {"precision": "bf16-mixed"}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_a_classifier_never_saw_the_batch_with_the_bad_image(options: dict[str, Any]) -> None:
    """With accumulated gradients it never saw the other batch of that step, either."""
    two = "accumulate_grad_batches" in options
    module, never = _classifier(), _classifier()
    with pytest.warns(UserWarning, match="the loss is nan"):
        trainer = _fit(module, _images([False, False, *([True, True] if two else [True]), False, False]), **options)
    assert _equal(_state(module, trainer), _state(never, _fit(never, _images([False] * 4), **options)))
    assert trainer.logged_metrics["update/skipped_steps_total"] == module.skipped_steps == 1


def test_one_bad_batch_spoils_the_step_that_it_is_accumulated_in() -> None:
    module, never = _classifier(), _classifier()
    batches = _images([False] * 4 + [True])
    batches = [batches[0], batches[1], batches[2], batches[4]]
    with pytest.warns(UserWarning, match=r"no step at step 2 \(batch 2 of the epoch\)"):
        trainer = _fit(module, batches, accumulate_grad_batches=2)
    assert _equal(_state(module, trainer), _state(never, _fit(never, batches[:2], accumulate_grad_batches=2)))


class Plain(SoundAutomaticSteps):
    """One weight, whose loss may be infinite where its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: float, batch_idx: int) -> Tensor:
        return self.weight.sum() + batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("batches", [[0.0, torch.inf], [torch.inf, 0.0]])
def test_an_infinite_loss_is_a_fault_although_its_gradient_is_none(batches: list[float]) -> None:
    module = Plain()
    with pytest.warns(UserWarning, match="no step at step 2 .* the loss is inf"):
        _fit(module, [0.0, 0.0, *batches, 0.0, 0.0], accumulate_grad_batches=2)
    assert module.weight.item() == -2.0


def test_another_fit_begins_afresh() -> None:
    """Also with networks that are others than before."""
    module = Pair()
    with pytest.raises(RepeatedFaults):
        _fit(module, _batches(["", "loss", "loss"]), Steps(), FaultGuard(2))
    module.policy = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.warns(UserWarning, match="1 in a row, 3 in this run"):
        _fit(module, _batches(["loss"]), Steps(), FaultGuard(2))
    assert torch.equal(module.state_dict()["policy.1.running_mean"], torch.zeros(2))


def test_clipping_is_torchs_own() -> None:
    """The norm that was measured is the one that is clipped by, and values are clipped where that is asked for."""
    for algorithm in ("norm", "value"):
        module = _classifier()
        trainer = _trainer(gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
        start = [parameter.detach().clone() for parameter in module.parameters()]
        trainer.fit(module, DataLoader(_images([False]), batch_size=None))  # type: ignore[arg-type]
        parameters = [parameter.detach() for parameter in module.parameters()]
        moved = [(before - after) / 0.1 - 1e-4 * before for before, after in zip(start, parameters, strict=True)]
        if algorithm == "norm":
            assert torch.cat([step.flatten() for step in moved]).norm().item() == pytest.approx(1e-3, rel=1e-2)
        else:
            assert max(float(step.abs().max()) for step in moved) == pytest.approx(1e-3, rel=1e-2)


def test_an_infinite_weight_ends_the_run_and_names_the_pairs(tiny_model: str) -> None:
    module = RewardModel(tiny_model)
    with torch.no_grad():
        module.model.head.weight[0, 0] = torch.inf
    pair = {"prompt": "def f():", "chosen": " return 1", "rejected": " pass", "_source": "pairs.jsonl:3"}
    with pytest.raises(RepeatedFaults, match="the loss is nan and the gradient's norm is nan") as error:
        _fit(module, [[pair]] * 3, FaultGuard(2))
    assert "pairs.jsonl:3" in str(error.value)
    assert module.model.head.weight.isinf().sum() == 1


def _scaled(scale: float) -> MixedPrecision:
    """``16-mixed`` with its scaler, as on an accelerator."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize("make", [_classifier, Pair])
def test_what_the_loss_scaler_skips_is_no_fault(make: Any) -> None:
    """Its first scale is too large by design; gradients overflow until it has come down."""
    module = make()
    batches = _images([False] * 3) if isinstance(module, ImageClassifier) else _batches([""] * 3)
    update = [] if isinstance(module, ImageClassifier) else [Steps()]
    trainer = _fit(module, batches, *update, plugins=[_scaled(2.0**40)])
    assert module.skipped_steps == 0
    assert float(trainer.precision_plugin.scaler.get_scale()) < 2.0**40  # type: ignore[attr-defined]


@pytest.mark.parametrize("fused", [True, False])
def test_a_loss_that_is_no_number_is_a_fault_under_a_scaler_too(fused: bool) -> None:
    """Fused optimisers unscale for themselves, in their step."""
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=fused)
    modules = [ImageClassifier("test_resnet", num_classes=3, optimizer=make) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    with pytest.warns(UserWarning, match="the loss is nan"):
        trainer = _fit(modules[0], _images([False, True]), plugins=[_scaled(4.0)])
    other = _fit(modules[1], _images([False]), plugins=[_scaled(4.0)])
    assert modules[0].skipped_steps == 1
    for left, right in zip(_state(modules[0], trainer), _state(modules[1], other), strict=True):
        torch.testing.assert_close(left, right, atol=2e-3, rtol=2e-2)


def test_a_policys_clipping_and_norms_do_not_see_the_scale() -> None:
    """Adam's first moment is a mean of clipped gradients."""
    updates, moments = (Steps(), Steps()), []
    for update, plugins in zip(updates, ([_scaled(1024.0)], []), strict=True):
        trainer = _fit(Pair(), _batches(["", ""]), update, plugins=plugins)
        moments.append(trainer.optimizers[0].state_dict()["state"][2]["exp_avg"])
    torch.testing.assert_close(*moments, atol=1e-3, rtol=1e-2)
    norms = [[float(stats["update/grad_norm_policy"]) for stats in update.stats] for update in updates]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


def test_kept_buffers_follow_those_that_are_put_in_their_place() -> None:
    network = nn.BatchNorm1d(2)
    kept = KeptBuffers([network])
    kept.keep()
    network.running_mean = torch.ones(2)
    kept.keep()
    network(torch.randn(4, 2))
    assert not torch.equal(network.running_mean, torch.ones(2))
    kept.restore()
    assert torch.equal(network.running_mean, torch.ones(2))
    assert network.num_batches_tracked == 0
