"""The image callbacks where an image has several labels."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import ClassificationReport, MaskGallery, ReinforceUpdate
from tamis.callbacks.mask_gallery import title_of
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.label_metrics import score_labels


class Findings(LightningDataModule):
    num_classes = 3
    label_kind = "multi"
    class_names = ("effusion", "mass", "never")

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        labels = torch.tensor([[i % 2, i // 2 % 2, 0] for i in range(8)]).float()
        return DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), labels), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = loader


def quiet(folder: Path, *callbacks: object) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu",
        callbacks=list(callbacks),  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_scores_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, -1.0], [-1.0, 1.0, 3.0], [1.0, 2.0, -1.0]])
    scores = score_labels(logits, torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0]]))
    assert scores.support.tolist() == [2, 2, 0]
    assert scores.predicted.tolist() == [2, 2, 1]
    assert scores.precision.tolist() == [1 / 2, 1, 0]
    assert scores.recall.tolist() == [1 / 2, 1, 0]
    assert scores.f1.tolist() == [1 / 2, 1, 0]
    assert scores.auc[:2].tolist() == [1 / 2, 1]  # of label 0: 2 above 1, and -1 below it
    assert scores.auc[2].isnan()


def test_a_report_has_a_row_a_label_and_its_macro_numbers_are_the_logged_ones(tmp_path: Path) -> None:
    (logged,) = quiet(tmp_path, ClassificationReport()).test(ImageClassifier("test_resnet"), Findings(), verbose=False)
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["per_class.csv"]
    with (tmp_path / "test" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["support"]) for row in rows] == [("effusion", "4"), ("mass", "4"), ("never", "0")]
    areas = [float(row["auc"]) for row in rows if row["auc"]]
    assert len(areas) == 2
    assert sum(areas) / 2 == pytest.approx(logged["test/macro_auc"], abs=1e-5)
    assert sum(float(row["f1"] or 0) for row in rows) / 3 == pytest.approx(logged["test/macro_f1"], abs=1e-5)


def test_masks_are_drawn_for_the_first_images(tmp_path: Path) -> None:
    gallery = MaskGallery(images=3)
    module = NoiseMaskPretraining("test_resnet", "test_resnet", grid=4, kernel_size=3)
    quiet(tmp_path, gallery, ReinforceUpdate()).fit(module, Findings())
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["iteration_000002.png"]


def test_a_row_is_named_by_its_labels() -> None:
    names = Findings.class_names
    assert title_of([1.0, 1.0, 0.0], names) == "effusion\nmass"
    assert title_of([0.0, 0.0, 0.0], names) == "no label"
    assert title_of([0.0, 1.0, 0.0], None) == "class 1"
    assert title_of(2, names) == "never"
