from collections.abc import Mapping
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, PolicyCallback
from tamis.modules import NoiseMaskPretraining, PolicyModule
from tamis.rollout import Rollout


class KeepsItsLoss(NoiseMaskPretraining):
    """Hands over nothing to step on."""

    def reward(self, rollout: Rollout) -> Rollout:
        return super().reward(rollout).replace(environment_loss=None)


class Watch(PolicyCallback):
    """Keeps what the update reported, and what it was given."""

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, torch.Tensor]
    ) -> None:
        self.stats, self.rollout = stats, rollout


def fit(module: NoiseMaskPretraining, update: EnvironmentUpdate) -> Watch:
    watch = Watch()
    images = TensorDataset(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[update, watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(images, batch_size=4))
    return watch


def test_it_steps_on_the_mean_of_the_loss_that_the_rollout_hands_over() -> None:
    torch.manual_seed(0)
    plain = partial(torch.optim.SGD, lr=1.0)
    module = NoiseMaskPretraining(
        "test_resnet", num_classes=3, grid=4, kernel_size=3, objective="random", classifier_optimizer=plain
    )
    weight = module.classifier.get_parameter("fc.weight")
    before = weight.detach().clone()
    watch = fit(module, EnvironmentUpdate())
    assert weight.grad is not None
    torch.testing.assert_close(weight.detach(), before - weight.grad)  # plain SGD at lr 1: one step on one gradient
    assert watch.rollout.environment_loss is not None
    torch.testing.assert_close(watch.stats["update/loss"], watch.rollout.environment_loss.mean().detach())
    assert module.iteration == 1


def test_clipping_bounds_the_step() -> None:
    plain = partial(torch.optim.SGD, lr=1.0)
    module = NoiseMaskPretraining(
        "test_resnet", num_classes=3, grid=4, kernel_size=3, objective="random", classifier_optimizer=plain
    )
    before = torch.cat([parameter.detach().flatten() for parameter in module.classifier.parameters()])
    fit(module, EnvironmentUpdate(max_grad_norm=0.01))
    after = torch.cat([parameter.detach().flatten() for parameter in module.classifier.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-2)


def test_a_module_without_a_loss_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="KeepsItsLoss hands over no environment_loss"):
        fit(KeepsItsLoss("test_resnet", num_classes=3, grid=4, objective="random"), EnvironmentUpdate())


def test_impossible_norm() -> None:
    with pytest.raises(ValueError, match="max_grad_norm must be positive"):
        EnvironmentUpdate(max_grad_norm=0.0)
