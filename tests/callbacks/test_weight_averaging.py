"""The mean of the last epochs: against one by hand, in validation, checkpoints, exports, and a resumed run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, LastEpochsAverage, ModelExport
from tamis.modules import ImageClassifier, NoiseMaskPretraining

State = dict[str, Tensor]


class TwoClasses(LightningDataModule):
    num_classes = 2

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(images, torch.arange(12) % 2), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = loader


class Recorder(Callback):
    """Training's own weights after each epoch's last step, and what its validation saw; stands before and behind."""

    def __init__(self) -> None:
        self.trained: list[State] = []
        self.validated: list[State] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained.append(copy_of(pl_module))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object, **__: object) -> None:
        if not trainer.sanity_checking:
            self.validated.append(copy_of(pl_module))


def copy_of(module: LightningModule) -> State:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def fit(module: LightningModule, folder: Path, *callbacks: Callback, epochs: int = 4, **options: Any) -> Trainer:
    checkpoint = ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1, save_last=True)
    run = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        callbacks=[*callbacks, checkpoint],
    )
    run.fit(module, TwoClasses(), **options)
    return run


def classifier() -> LightningModule:
    return ImageClassifier("test_resnet")


def noise_mask() -> LightningModule:
    return NoiseMaskPretraining("test_resnet", "test_resnet", grid=4, objective="official", masked_evaluation=False)


def update_of(module: LightningModule) -> list[Callback]:
    return [EnvironmentUpdate()] if isinstance(module, NoiseMaskPretraining) else []


def mean_by_hand(states: list[State]) -> State:
    """(a + b + c) / 3 of floats; the last one's integers."""
    return {
        name: sum(state[name] for state in states) / len(states) if last.is_floating_point() else last  # type: ignore[misc]
        for name, last in states[-1].items()
    }


def assert_same(first: State, second: State, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [classifier, noise_mask])
def test_the_model_is_the_mean_of_the_last_three_epochs(make: Any, tmp_path: Path) -> None:
    module, seen = make(), Recorder()
    fit(module, tmp_path, LastEpochsAverage(3), seen, *update_of(module), ModelExport())
    expected = mean_by_hand(seen.trained[1:])
    assert len(seen.trained) == 4
    assert_same(copy_of(module), expected, 1e-5)
    counters = [name for name, tensor in expected.items() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(module.state_dict()[name] == 12 for name in counters)
    assert not torch.equal(expected["network.bn1.running_mean"], seen.trained[-1]["network.bn1.running_mean"])
    exported = torch.load(tmp_path / "model" / "classifier.pt", weights_only=True)["state_dict"]
    assert_same(
        exported, {n.removeprefix("network."): t for n, t in copy_of(module).items() if n.startswith("network")}
    )
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert_same(saved, copy_of(module))


def test_an_epochs_validation_sees_its_own_weights_and_then_the_mean_that_holds_them(tmp_path: Path) -> None:
    seen = Recorder()
    fit(classifier(), tmp_path, LastEpochsAverage(2), seen, epochs=3)
    assert_same(seen.validated[0], seen.trained[0])
    assert_same(seen.validated[1], seen.trained[1])
    assert_same(seen.validated[2], mean_by_hand(seen.trained[1:]), 1e-5)


def test_training_goes_on_as_if_nothing_were_averaged(tmp_path: Path) -> None:
    states = []
    for name, callbacks in (("with", [LastEpochsAverage(3)]), ("without", [])):
        torch.manual_seed(0)
        seen = Recorder()
        fit(classifier(), tmp_path / name, *callbacks, seen)
        states.append(seen.trained)
    for first, second in zip(*states, strict=True):
        assert_same(first, second)


@pytest.mark.parametrize("make", [classifier, noise_mask])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resumed_run_ends_with_the_same_model(epoch: int, make: Any, tmp_path: Path) -> None:
    straight = make()
    torch.manual_seed(5)
    fit(straight, tmp_path / "straight", LastEpochsAverage(3), SeedEachStep(), *update_of(straight))
    checkpoint = tmp_path / "straight" / "checkpoints" / f"epoch={epoch}.ckpt"
    resumed = make()
    callbacks = [LastEpochsAverage(3), SeedEachStep(), *update_of(resumed)]
    fit(resumed, tmp_path / "resumed", *callbacks, ckpt_path=str(checkpoint))
    assert_same(copy_of(resumed), copy_of(straight))


class SeedEachStep(Callback):
    """Masks are drawn from torch's generator, which no checkpoint holds."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        torch.manual_seed(trainer.global_step)


class Save(Callback):
    """Writes checkpoints at odd moments of an epoch: stands behind the average."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder, self.epoch = folder, epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.is_last_batch and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.folder / "step.ckpt")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.folder / "validation.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / "end.ckpt")


def test_a_checkpoint_keeps_trainings_own_weights_while_the_module_holds_the_mean(tmp_path: Path) -> None:
    seen = Recorder()
    fit(classifier(), tmp_path, LastEpochsAverage(2), seen, Save(tmp_path, epoch=2), epochs=3)
    for name in ("validation", "end"):
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert_same(saved["last_epochs_average"]["own"], seen.trained[2])
        assert_same(saved["state_dict"], mean_by_hand(seen.trained[1:]), 1e-5)
        assert saved["last_epochs_average"]["averaged"] == [1, 2]


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_an_epoch_counts_once_for_a_run_resumed_within_it(moment: str, tmp_path: Path) -> None:
    straight = classifier()
    fit(straight, tmp_path / "straight", LastEpochsAverage(2), Save(tmp_path, epoch=2))
    resumed, seen = classifier(), Seen()
    fit(resumed, tmp_path / "resumed", LastEpochsAverage(2), seen, ckpt_path=str(tmp_path / f"{moment}.ckpt"))
    assert seen.averaged == [2, 3]
    assert_same(copy_of(resumed), copy_of(straight))


class Seen(Callback):
    """The epochs that an average has taken by the end of the fit."""

    averaged: list[int]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (average,) = (callback for callback in trainer.callbacks if isinstance(callback, LastEpochsAverage))  # type: ignore[attr-defined]
        self.averaged = list(average._averaged)


def test_a_longer_run_averages_its_own_last_epochs(tmp_path: Path) -> None:
    fit(classifier(), tmp_path / "short", LastEpochsAverage(2), epochs=2)
    module, seen = classifier(), Recorder()
    last = str(tmp_path / "short" / "checkpoints" / "last.ckpt")
    fit(module, tmp_path / "long", LastEpochsAverage(2), seen, epochs=4, ckpt_path=last)
    assert_same(copy_of(module), mean_by_hand(seen.trained[-2:]), 1e-5)
    own = torch.load(last, weights_only=True)["last_epochs_average"]["own"]
    assert_same(own, torch.load(tmp_path / "short" / "checkpoints" / "epoch=1.ckpt")["last_epochs_average"]["own"])


def test_a_test_of_the_checkpoint_sees_the_mean(tmp_path: Path) -> None:
    module = classifier()
    fit(module, tmp_path, LastEpochsAverage(3))
    again = classifier()
    run = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[LastEpochsAverage(3)])
    run.test(again, TwoClasses(), ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"), verbose=False)
    assert_same(copy_of(again), copy_of(module))


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        LastEpochsAverage(0)
    with pytest.raises(MisconfigurationException, match="last 3 epochs, but trainer.max_epochs is 2; set max_epochs"):
        fit(classifier(), tmp_path, LastEpochsAverage(3), epochs=2)
    run = Trainer(max_epochs=3, logger=False, callbacks=[LastEpochsAverage(3), weights_only_checkpoint(tmp_path)])
    with pytest.raises(MisconfigurationException, match="save_weights_only keeps no callback's state"):
        run.fit(classifier(), TwoClasses())


def weights_only_checkpoint(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, save_weights_only=True)
