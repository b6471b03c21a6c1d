"""Two processes give what one gives: in evaluation though the sampler repeats an image, in training step by step."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, Subset, TensorDataset

from tamis.callbacks import EnvironmentUpdate, LastEpochsAverage
from tamis.datamodules import Phantoms
from tamis.modules import ImageClassifier, NoiseMaskPretraining

from .ranks import Ranks, tamis

REPORT = ("test/per_class.csv", "test/groups.csv")
METRICS = (
    "accuracy",
    "top5_accuracy",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "macro_auc",
    "cross_entropy",
)


def _test(ranks: Ranks, folder: Path, root: Path, processes: int) -> list[dict[str, str]]:
    """The rows of the report's tables and what was logged."""
    flags = [f"--data.root={root}", "--data.test_images=31", "--data.train_images=15", "--data.val_images=15"]
    flags += ["--data.phantom_size=32", "--data.image_size=32", "--data.batch_size=4"]
    flags += ["--model.backbone=test_resnet", f"--model.weights={root.parent}"]
    flags += ["--trainer.callbacks+=ClassificationReport"]
    tamis(ranks, processes, folder, ["test", "--model=ImageClassifier", "--data=Phantoms", *flags])
    rows: list[dict[str, str]] = []
    for name in REPORT:
        with (folder / name).open() as file:
            rows += csv.DictReader(file)
    with (folder / "metrics.csv").open() as file:
        (logged,) = [row for row in csv.DictReader(file) if row["test/accuracy"]]
    return [*rows, {key: logged[f"test/{key}"] for key in METRICS}]


def test_two_processes_report_what_one_does(ranks: Ranks, tmp_path: Path) -> None:
    data = Phantoms(str(tmp_path / "phantoms"), 15, 15, 31, phantom_size=32)
    data.prepare_data()
    ImageClassifier("test_resnet", num_classes=15).export(tmp_path)
    one, two = (_test(ranks, tmp_path / f"run{processes}", tmp_path / "phantoms", processes) for processes in (1, 2))
    assert sum(int(row["support"]) for row in one[:15]) == 31
    for expected, found in zip(one, two, strict=True):
        assert found.keys() == expected.keys()
        for key, text in expected.items():
            try:
                # Other batches, other sums: the last digits may differ.
                assert float(found[key]) == pytest.approx(float(text), abs=1e-5), key
            except ValueError:
                assert found[key] == text, key


def test_two_processes_train_on_the_batches_of_one(ranks: Ranks, tmp_path: Path) -> None:
    Phantoms(str(tmp_path / "phantoms"), 40, 15, 15, phantom_size=32).prepare_data()
    ImageClassifier("test_vit", num_classes=15).export(tmp_path)  # a network without batch normalisation
    one, two = (_fit(ranks, tmp_path / f"run{processes}", tmp_path, processes) for processes in (1, 2))
    start = torch.load(tmp_path / "classifier.pt", weights_only=True)["state_dict"]
    assert one.keys() == two.keys() == start.keys()
    assert any((one[name] - start[name]).abs().max() > 1e-2 for name in one)
    for name, parameter in one.items():
        torch.testing.assert_close(two[name], parameter, atol=1e-4, rtol=1e-4, msg=name)


def _fit(ranks: Ranks, folder: Path, root: Path, processes: int) -> dict[str, torch.Tensor]:
    """The weights after two epochs of global batches of 8, every class as often, with all augmentation."""
    flags = [f"--data.root={root / 'phantoms'}", "--data.test_images=15", "--data.train_images=40"]
    flags += ["--data.val_images=15", "--data.phantom_size=32", "--data.image_size=32", "--data.sampling=balanced"]
    flags += [f"--data.batch_size={8 // processes}", f"--data.num_workers={processes - 1}"]
    flags += ["--model.backbone=test_vit", f"--model.weights={root}", "--trainer.max_epochs=2"]
    flags += ["--trainer.callbacks+=ModelExport"]
    tamis(ranks, processes, folder, ["fit", "--model=ImageClassifier", "--data=Phantoms", *flags])
    weights: dict[str, torch.Tensor] = torch.load(folder / "model" / "classifier.pt", weights_only=True)["state_dict"]
    return weights


def quiet_trainer(callbacks: list[Callback], processes: int, epochs: int = 1, dealt: bool = False) -> Trainer:
    """Unless they are ``dealt`` already, Lightning's own samplers deal the images to ranks: shuffled, when training."""
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=not dealt,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def images_of(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 3)


def evaluate_seven(processes: int) -> dict[str, float]:
    """Everything measured of seven images, one at a time, so that no image's logits hang on another."""
    torch.manual_seed(0)
    module = NoiseMaskPretraining("test_vit", "test_vit", num_classes=3, grid=4, kernel_size=5, sigma=1.5)
    trainer = quiet_trainer([EnvironmentUpdate()], processes)
    trainer.test(module, DataLoader(images_of(7), batch_size=1), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_seven_images_on_two_ranks_measure_exactly_what_they_do_on_one(ranks: Ranks) -> None:
    """One of them comes twice: clean, behind expected masks and behind drawn ones it counts once."""
    one = evaluate_seven(1)
    assert len(one) == 14
    assert one["test/accuracy"] * 7 == pytest.approx(round(one["test/accuracy"] * 7))
    assert one["test/sampled_mask_cross_entropy"] != one["test/mean_mask_cross_entropy"]
    for rank in ranks(evaluate_seven, 2):
        # The mean cross-entropy adds the same numbers up in another order.
        assert rank == {
            name: pytest.approx(value, rel=1e-6) if "entropy" in name else value for name, value in one.items()
        }


def average(processes: int) -> dict[str, torch.Tensor]:
    """The mean of the last two of three epochs."""
    torch.manual_seed(0)
    module = ImageClassifier("test_vit", 3, optimizer=partial(torch.optim.SGD, lr=0.05))
    trainer = quiet_trainer([LastEpochsAverage(2)], processes, epochs=3, dealt=True)
    mine = Subset(images_of(8), range(trainer.global_rank, 8, processes))
    trainer.fit(module, DataLoader(mine, batch_size=4 // processes), DataLoader(mine, batch_size=2))
    return dict(module.state_dict())


def test_the_mean_of_the_last_epochs_is_the_same_on_two_ranks(ranks: Ranks) -> None:
    one, both = average(1), ranks(average, 2)
    for name, weight in one.items():
        assert torch.equal(both[0][name], both[1][name]), name
        torch.testing.assert_close(both[0][name], weight, atol=1e-5, rtol=1e-4, msg=name)


def stop_early(processes: int) -> tuple[int, int]:
    """Epochs and steps until the cross-entropy, which falls, has not risen for two validations."""
    torch.manual_seed(0)
    module = ImageClassifier("test_vit", 3, optimizer=partial(torch.optim.SGD, lr=0.02))
    stopping = EarlyStopping("val/cross_entropy", mode="max", patience=2)
    trainer = quiet_trainer([stopping], processes, epochs=9)
    trainer.fit(module, DataLoader(images_of(8), batch_size=4 // processes), DataLoader(images_of(8), batch_size=1))
    return trainer.current_epoch, trainer.global_step


def test_early_stopping_ends_both_ranks_together(ranks: Ranks) -> None:
    assert ranks(stop_early, 2) == [stop_early(1)] * 2 == [(3, 6)] * 2
