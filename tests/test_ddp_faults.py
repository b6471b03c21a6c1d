"""A fault that only one of two ranks sees: both skip the step, and go on in step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import PolicyUpdate
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.modules.sound_steps import SoundAutomaticSteps, SoundSteps
from tamis.rollout import Rollout

#: What goes wrong on rank 1 in each step; on rank 0 nothing ever does.
FAULTS = ["", "reward", "loss", "gradient", ""]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def _loss(network: nn.Module, batch: tuple[Tensor, int], rank: int) -> Tensor:
    x, number = batch
    fault = FAULTS[int(number)] if rank else ""
    y = network(x) ** 2
    y = y + (y * 0).sqrt() if fault == "gradient" else y
    loss: Tensor = y.sum() + (torch.inf if fault == "loss" else 0.0)
    return loss


class Policy(PolicyModule):
    """A policy whose loss is the step's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = _network()

    def networks(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def act(self, batch: tuple[Tensor, int]) -> Rollout:
        ones, loss = torch.ones(1, 1), _loss(self.policy, batch, self.global_rank)
        told: list[dict[str, Any]] = [{"number": int(batch[1])}]
        return Rollout(ones[0].long(), ones, ones.bool(), environment_loss=loss, records=told)

    def reward(self, rollout: Rollout) -> Rollout:
        lost = self.global_rank == 1 and FAULTS[rollout.records[0]["number"]] == "reward"
        return rollout.replace(rewards=torch.tensor([torch.nan if lost else 1.0]))

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Step(PolicyUpdate):
    """One step on the rollout's loss."""

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        if rollout.environment_loss is None:
            raise ValueError("no loss")
        return module.optimize(rollout.environment_loss)


class Automatic(SoundAutomaticSteps):
    """The same, stepped by Lightning; it has no rewards."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = _network()

    def training_step(self, batch: tuple[Tensor, int], batch_idx: int) -> Tensor:
        return _loss(self.policy, batch, self.global_rank)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class InStep(Callback):
    """The ranks' weights and counters are the same after every step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, SoundSteps):
            raise TypeError("no SoundSteps")
        counts = torch.tensor([pl_module.skipped_steps, pl_module.faulty_in_a_row])
        own = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()] + [counts])
        both = torch.as_tensor(pl_module.all_gather(own))
        if not torch.equal(both[0], both[1]) or not bool(both.isfinite().all()):
            raise ValueError(f"the ranks differ: {both}")


@pytest.mark.parametrize("make", [Policy, Automatic])
def test_ranks_skip_together(make: type[Policy] | type[Automatic]) -> None:
    """Each of them has seen the good batches only, batch statistics included; processes are forks of this one."""
    draw = torch.Generator().manual_seed(1)
    batches = [(torch.randn(4, 2, generator=draw), number) for number in range(len(FAULTS))]
    modules = make(), make()
    skipped = [number for number, fault in enumerate(FAULTS) if fault and (make is Policy or fault != "reward")]
    for module, given in zip(modules, (batches, [b for b in batches if b[1] not in skipped]), strict=True):
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            strategy=DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=60)),
            devices=2,
            use_distributed_sampler=False,
            callbacks=[InStep(), *([Step()] if make is Policy else [])],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(given, batch_size=None))  # type: ignore[arg-type]
    left, right = (module.state_dict() for module in modules)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert left["policy.1.num_batches_tracked"] == len(FAULTS) - len(skipped)
