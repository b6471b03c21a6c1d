"""Classes evened out in the loss: what the modules train on, on one process as on several, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, ReinforceUpdate
from tamis.functional import class_weights, logit_offsets
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.image_loss import ClassBalance, ImageLoss

from .small.masks import noise_mask, quiet_trainer

IMAGES = [9, 3, 0, 4]


class Unbalanced(LightningDataModule):
    num_classes = 4

    def class_counts(self) -> Tensor:
        return torch.tensor(IMAGES)

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        labels = torch.arange(4).repeat_interleave(torch.tensor(IMAGES))[torch.randperm(16)]
        return DataLoader(TensorDataset(torch.randn(16, 3, 32, 32), labels), batch_size=8)

    train_dataloader = val_dataloader = loader


def prepared(balance: ClassBalance | None) -> ImageLoss:
    run, loss = quiet_trainer(steps=1), ImageLoss(balance)
    run.datamodule = Unbalanced()
    loss.prepare(run)
    return loss


def frozen(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)  # type: ignore[arg-type]


def test_without_balance_the_step_is_torchs_cross_entropy_to_the_bit() -> None:
    loss = prepared(None)
    for dtype in (torch.float32, torch.bfloat16):
        logits, labels = torch.randn(37, 11, dtype=dtype), torch.randint(0, 11, (37,))
        assert torch.equal(loss.mean(logits, labels), F.cross_entropy(logits, labels))
        assert torch.equal(loss(logits, labels), F.cross_entropy(logits, labels, reduction="none"))


def test_the_loss_is_the_functions() -> None:
    loss = prepared(ClassBalance("effective", beta=0.9, logit_adjustment=0.5))
    logits, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 3, 3, 1])
    moved = (logits + logit_offsets(torch.tensor(IMAGES), 0.5)).log_softmax(dim=1)
    weights = class_weights(torch.tensor(IMAGES), "effective", 0.9)
    expected = torch.stack([-weights[label] * row[label] for row, label in zip(moved, labels, strict=True)])
    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(loss.mean(logits, labels), expected.mean())


def test_over_an_epoch_the_weights_have_a_mean_of_one() -> None:
    loss = prepared(ClassBalance("inverse"))
    labels = torch.arange(4).repeat_interleave(torch.tensor(IMAGES))
    assert float(loss.mean(torch.zeros(16, 4), labels)) == pytest.approx(math.log(4))


def test_two_ranks_take_the_step_of_one() -> None:
    """DDP averages the ranks' gradients: of a rank with the rare class alone, and one without."""
    module = ImageClassifier("test_resnet", num_classes=4, class_balance=ClassBalance("inverse", logit_adjustment=1.0))
    run = quiet_trainer(steps=1)
    run.datamodule = Unbalanced()
    module.loss.prepare(run)
    module.eval()  # batch norms would differ
    images, labels = torch.randn(8, 3, 32, 32), torch.tensor([1, 1, 1, 3, 0, 0, 0, 0])

    def gradient(rows: slice) -> Tensor:
        loss = module.loss.mean(module(images[rows]), labels[rows])
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.classifier.parameters()))])

    ranks = torch.stack([gradient(slice(0, 4)), gradient(slice(4, 8))])
    torch.testing.assert_close(ranks.mean(dim=0), gradient(slice(0, 8)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ranks[0], ranks[1], atol=1e-2)


@pytest.mark.parametrize("balance", [ClassBalance("inverse"), ClassBalance(logit_adjustment=1.0)])
def test_a_fit_counts_the_classes_and_evaluation_is_without_them(balance: ClassBalance, tmp_path: Path) -> None:
    module, run = ImageClassifier("test_resnet", class_balance=balance, optimizer=frozen), quiet_trainer(steps=1)
    run.fit(module, Unbalanced())
    run.save_checkpoint(tmp_path / "last.ckpt")
    images, labels = next(iter(Unbalanced().loader()))
    logits = module(images)
    assert not torch.isclose(module.loss.mean(logits, labels), F.cross_entropy(logits, labels), rtol=1e-3)
    (found,) = run.validate(module, DataLoader(TensorDataset(images, labels), batch_size=4), verbose=False)
    assert found["val/cross_entropy"] == pytest.approx(float(F.cross_entropy(module.eval()(images), labels)), rel=1e-4)
    again = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt")  # by its weights alone
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"].keys() == module.state_dict().keys()
    assert again.loss.balance is None


@pytest.mark.parametrize("objective", ["reinforce", "official", "pathwise", "random", "none"])
def test_a_noise_mask_trains_on_the_balanced_loss(objective: str) -> None:
    balance = ClassBalance("inverse")
    update = ReinforceUpdate() if objective == "reinforce" else EnvironmentUpdate()
    run = quiet_trainer(update, steps=1)
    run.fit(noise_mask(num_classes=None, objective=objective, class_balance=balance), Unbalanced())
    assert math.isfinite(float(run.callback_metrics["train/cross_entropy"]))
    module = noise_mask(num_classes=4, objective=objective, class_balance=balance).eval()
    module.loss.prepare(run)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 3, 1])
    rollout = module.reward(module.act((images, labels)))
    masks = 1 if objective == "none" else module.render_masks(rollout.actions, 32)
    observed = rollout.observations
    plain = F.cross_entropy(module(observed["images"] * masks), observed["labels"], reduction="none")
    weights = class_weights(torch.tensor(IMAGES), "inverse")[observed["labels"]]
    torch.testing.assert_close(rollout.rewards, -(weights * plain).detach())


def test_what_cannot_be_balanced_is_refused() -> None:
    class Uncounted(LightningDataModule):
        num_classes = 4
        train_dataloader = Unbalanced.loader

    class Several(Unbalanced):
        label_kind = "multi"

    class Sampled(Unbalanced):
        sampling = "balanced"

    def fit(data: Any) -> None:
        module = ImageClassifier("test_resnet", num_classes=4, class_balance=ClassBalance("inverse"))
        quiet_trainer(steps=1).fit(module, data)

    with pytest.raises(ValueError, match=r"whose class_counts\(\) gives .*Uncounted has none; give the datamodule one"):
        fit(Uncounted())
    with pytest.raises(ValueError, match="this run has no datamodule; "):
        fit(Unbalanced().loader())
    with pytest.raises(ValueError, match="class_balance needs one class an image, and these have several"):
        fit(Several())
    with pytest.raises(ValueError, match="rare classes twice; set class_balance to null, or sampling to uniform"):
        fit(Sampled())
    with pytest.raises(RuntimeError, match="class_balance is known from the training split on"):
        ImageLoss(ClassBalance("inverse"))(torch.zeros(2, 4), torch.tensor([0, 1]))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="weighting none and logit_adjustment 0 does nothing; set it to null"):
        ClassBalance()
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\), got 1"):
        ClassBalance("effective", beta=1)
    with pytest.raises(ValueError, match="tau must be finite and at least 0, got -1"):
        ClassBalance(logit_adjustment=-1)
    with pytest.raises(ValueError, match="weighting must be none, inverse or effective, got 'focal'"):
        ClassBalance("focal")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [ImageClassifier, NoiseMaskPretraining])
def test_the_options_are_the_command_lines(module: type) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(module, "model")
    flags = [
        "--model.class_balance.weighting=effective",
        "--model.class_balance.beta=0.99",
        "--model.label_kind=ordinal",
    ]
    made = parser.instantiate(parser.parse_args(flags)).model
    assert made.loss.balance == ClassBalance("effective", beta=0.99)
    assert made.label_kind == "ordinal"
