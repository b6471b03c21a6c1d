"""Two processes give what one gives: in evaluation though the sampler repeats an image, in training step by step."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tamis.datamodules import Phantoms
from tamis.modules import ImageClassifier

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
