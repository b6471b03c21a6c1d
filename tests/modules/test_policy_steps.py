"""The loop's bookkeeping: gradients, clipping, schedules and random streams, by hand on two numbers."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import PolicyUpdate
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.modules.policy import policy_generator
from tamis.rollout import Rollout


class Two(PolicyModule):
    """A policy of one weight and an environment of another; both start at 0 and step by SGD at rate 1."""

    environment_networks: ClassVar[frozenset[str]] = frozenset({"environment"})

    def __init__(self, max_iterations: int, interval: str | None = None) -> None:
        super().__init__(max_iterations)
        self.interval = interval
        self.policy, self.environment = (nn.Linear(1, 1, bias=False) for _ in range(2))
        nn.init.zeros_(self.policy.weight)
        nn.init.zeros_(self.environment.weight)

    def networks(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "environment": self.environment}

    def act(self, batch: Tensor) -> Rollout:
        return Rollout(torch.zeros(1).long(), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))

    def reward(self, rollout: Rollout) -> Rollout:
        return rollout

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        raise NotImplementedError

    def configure_optimizers(self) -> list[Any]:
        optimizers = [torch.optim.SGD(network.parameters(), lr=1.0) for network in self.networks().values()]
        if self.interval is None:
            return list(optimizers)
        schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) for optimizer in optimizers]
        return [
            {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True)
        ]


class Step(PolicyUpdate):
    """Steps the policy along a gradient of 3, and the environment along one of 5 where asked to."""

    def __init__(self, environment: bool = False, max_grad_norm: float | None = None) -> None:
        self.environment, self.max_grad_norm = environment, max_grad_norm
        self.stats: list[dict[str, float]] = []

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        two = cast(Two, module)
        environment_loss = 5 * two.environment.weight.sum() if self.environment else None
        norms = module.optimize(3 * two.policy.weight.sum(), environment_loss, self.max_grad_norm)
        self.stats.append({name: float(norm) for name, norm in norms.items()})
        return norms


def _fit(module: Two, update: Step, batches: int = 2) -> Trainer:
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[update],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.zeros(batches, 1)))  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize(("limit", "moved"), [(None, (-6.0, -10.0)), (4.0, (-6.0, -8.0)), (1.0, (-2.0, -2.0))])
def test_each_network_is_clipped_on_its_own_and_starts_from_zero_gradient(
    limit: float | None, moved: tuple[float, float]
) -> None:
    """Two iterations with gradients 3 and 5: whatever is left of the first one's would add to the second."""
    module, update = Two(2), Step(environment=True, max_grad_norm=limit)
    _fit(module, update)
    assert (module.policy.weight.item(), module.environment.weight.item()) == pytest.approx(moved, abs=1e-4)
    assert update.stats == [{"update/grad_norm_policy": 3.0, "update/grad_norm_environment": 5.0}] * 2


def test_the_environment_stays_when_it_has_no_loss() -> None:
    module, update = Two(2), Step()
    _fit(module, update)
    assert (module.policy.weight.item(), module.environment.weight.item()) == (-6.0, 0.0)
    assert update.stats == [{"update/grad_norm_policy": 3.0}] * 2


@pytest.mark.parametrize(("interval", "rate"), [("step", 0.5**4), ("epoch", 0.5**2)])
def test_schedules_count_iterations_or_epochs(interval: str, rate: float) -> None:
    """Four iterations are two epochs of two batches."""
    trainer = _fit(Two(4, interval), Step(environment=True))
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [rate, rate]


def test_random_streams_are_kept_apart() -> None:
    class Module:
        device = torch.device("cpu")

        def __init__(self, iteration: int) -> None:
            self.iteration = iteration

    def draw(purpose: str = "act", seed: int = 0, iteration: int = 0) -> int:
        generator = policy_generator(cast(PolicyModule, Module(iteration)), purpose, seed)
        return int(torch.randint(2**31, (1,), generator=generator))

    assert draw() == draw()
    draws = [
        draw(),
        draw(purpose="filter"),
        draw(seed=1),
        draw(iteration=1),
        draw(seed=11),
        draw(seed=1, iteration=1),
    ]
    assert len(set(draws)) == len(draws)
