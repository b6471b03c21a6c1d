"""The files of a classification report say what was logged, and what loops over the images say."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import ClassificationReport, EnvironmentUpdate
from tamis.callbacks.classification_tables import groups_table, logged_metrics, per_class_table, score_groups
from tamis.callbacks.confusion_picture import confusion_figure
from tamis.datamodules import Phantoms
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.run_dir.metrics_file import MetricsFile

Table = list[dict[str, str]]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    data = Phantoms(
        str(tmp_path_factory.mktemp("report") / "set"), 15, 15, 45, phantom_size=32, image_size=32, batch_size=20
    )
    data.prepare_data()
    return data


def trainer(folder: Path, report: ClassificationReport, **options: object) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[report, *([EnvironmentUpdate()] if options.pop("update", False) else [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, "max_epochs": 1, **options},  # type: ignore[arg-type]
    )


def read(path: Path) -> Table:
    with path.open() as file:
        return list(csv.DictReader(file))


def column(table: Table, name: str) -> list[float]:
    """The numbers that are there."""
    return [float(row[name]) for row in table if row[name]]


def test_tables_agree_with_the_logs_and_with_the_images(tmp_path: Path, phantoms: Phantoms) -> None:
    module = ImageClassifier("test_resnet", num_classes=15)
    run = trainer(tmp_path, ClassificationReport())
    (logged,) = run.test(module, phantoms, verbose=False)
    per_class, groups = (read(tmp_path / "test" / name) for name in ("per_class.csv", "groups.csv"))

    assert [row["class"] for row in per_class] == phantoms.class_names
    assert sum(column(per_class, "support")) == 45
    for key in ("precision", "recall", "f1", "auc"):
        assert np.mean(column(per_class, key)) == pytest.approx(logged[f"test/macro_{key}"], abs=1e-5)
    whole = {key: float(value) for key, value in groups[0].items() if key not in ("way", "group")}
    assert (groups[0]["way"], groups[0]["group"]) == ("all", "all")
    assert (whole.pop("images"), whole.pop("classes")) == (45, 15)
    assert whole == pytest.approx({key.removeprefix("test/"): value for key, value in logged.items()}, abs=1e-5)

    batches = [phantoms.on_after_batch_transfer(batch, 0) for batch in phantoms.test_dataloader()]
    with torch.no_grad():
        taken = torch.cat([module.eval()(batch.images).argmax(dim=1) for batch in batches]).tolist()
    truth = torch.cat([batch.labels for batch in batches]).tolist()
    for way, of_class in phantoms.class_groups.items():
        rows = {row["group"]: row for row in groups if row["way"] == way}
        assert set(rows) == set(of_class)
        for group, row in rows.items():
            hits = [a == b for a, b in zip(truth, taken, strict=True) if of_class[a] == group]
            assert (int(row["images"]), int(row["classes"])) == (len(hits), of_class.count(group))
            assert float(row["accuracy"]) == pytest.approx(np.mean(hits), abs=1e-5)


def test_loggers_get_the_groups_and_the_picture(tmp_path: Path, phantoms: Phantoms) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = [kind(str(tmp_path), name="", version="") for kind in (TensorBoardLogger, CSVLogger)]
    run = trainer(tmp_path, ClassificationReport(), logger=loggers)
    (printed,) = run.test(ImageClassifier("test_resnet", num_classes=15), phantoms, verbose=False)
    assert not any("modality" in name for name in printed)  # the table that Lightning prints stays short
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["test/confusion"]
    (group,) = [row for row in read(tmp_path / "test" / "groups.csv") if row["group"] == "MR"]
    (scalar,) = events.Scalars("test/modality_MR/balanced_accuracy")
    assert scalar.value == pytest.approx(float(group["balanced_accuracy"]), abs=1e-5)
    rows = [row for row in read(tmp_path / "metrics.csv") if row["test/anatomy_usabd/cross_entropy"]]
    (group,) = [row for row in read(tmp_path / "test" / "groups.csv") if row["group"] == "usabd"]
    assert float(rows[0]["test/anatomy_usabd/cross_entropy"]) == pytest.approx(float(group["cross_entropy"]), abs=1e-4)
    picture = np.asarray(Image.open(tmp_path / "test" / "confusion.png").convert("L"))
    assert picture.std() > 10  # not blank


def images(count: int = 12) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(count, 3, 32, 32), torch.arange(count) % 3), batch_size=5)


def test_noise_mask_pretraining_is_reported_on_clean_images(tmp_path: Path) -> None:
    module = NoiseMaskPretraining(
        "test_resnet", "test_resnet", num_classes=4, grid=4, kernel_size=3, objective="random"
    )
    report = ClassificationReport(validation=True)
    trainer(tmp_path, report, update=True, num_sanity_val_steps=0).fit(module, images(), images())
    (logged,) = trainer(tmp_path, report, update=True).test(module, images(), verbose=False)
    for stage in ("val", "test"):
        rows = read(tmp_path / stage / "per_class.csv")
        assert [(row["class"], row["support"]) for row in rows] == [("0", "4"), ("1", "4"), ("2", "4"), ("3", "0")]
    assert len(read(tmp_path / "test" / "groups.csv")) == 1  # without a datamodule there are no groups
    assert column(read(tmp_path / "test" / "groups.csv"), "accuracy") == pytest.approx(
        [logged["test/accuracy"]], abs=1e-5
    )


def test_validations_are_reported_only_if_asked_to(tmp_path: Path) -> None:
    trainer(tmp_path, ClassificationReport()).fit(ImageClassifier("test_resnet", num_classes=3), images(), images())
    assert list(tmp_path.iterdir()) == []
    run = trainer(tmp_path, ClassificationReport(validation=True), limit_val_batches=0, num_sanity_val_steps=1)
    run.fit(ImageClassifier("test_resnet", num_classes=3), images(), images())
    assert list(tmp_path.iterdir()) == []
    run = trainer(tmp_path, ClassificationReport(validation=True), max_epochs=2)
    run.fit(ImageClassifier("test_resnet", num_classes=3), images(), images(9))
    assert sum(column(read(tmp_path / "val" / "per_class.csv"), "support")) == 9


class Grouped(LightningDataModule):
    """Images of three classes in two groups."""

    class_names: ClassVar = ["a", "b", "c"]
    class_groups: ClassVar = {"anatomy": ["x", "x", "y"]}

    def train_dataloader(self) -> DataLoader[Any]:
        return images()

    def val_dataloader(self) -> DataLoader[Any]:
        return images(9)


def test_the_groups_of_a_validation_stand_at_its_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, ClassificationReport(validation=True), max_epochs=2, logger=MetricsFile(tmp_path))
    run.fit(ImageClassifier("test_resnet", num_classes=3), Grouped())
    rows = read(tmp_path / "metrics.csv")
    ours, theirs = ([row["step"] for row in rows if row[name]] for name in ("val/anatomy_y/accuracy", "val/accuracy"))
    assert ours == theirs
    assert len(ours) == 2


def test_the_check_before_training_is_no_validation(tmp_path: Path) -> None:
    run = trainer(tmp_path, ClassificationReport(validation=True), limit_train_batches=0, num_sanity_val_steps=2)
    run.fit(ImageClassifier("test_resnet", num_classes=3), images(), images())
    assert not (tmp_path / "val").exists()


def test_an_earlier_report_is_not_overwritten(tmp_path: Path) -> None:
    module = ImageClassifier("test_resnet", num_classes=3)
    trainer(tmp_path, ClassificationReport(folder=str(tmp_path / "a"))).test(module, images(), verbose=False)
    with pytest.raises(FileExistsError, match=r"a/test/per_class.csv exists; choose another"):
        trainer(tmp_path, ClassificationReport(folder=str(tmp_path / "a"))).test(module, images(), verbose=False)
    trainer(tmp_path, ClassificationReport(folder=str(tmp_path / "b"))).test(module, images(), verbose=False)
    trainer(tmp_path, ClassificationReport(folder=str(tmp_path / "a"))).fit(module, images(), images())  # no test


class NoClassifier(LightningModule):
    """No classifier."""

    def test_step(self, batch: object) -> None:
        """Nothing to measure."""


def test_another_module_is_refused(tmp_path: Path) -> None:
    module = NoClassifier()
    with pytest.raises(MisconfigurationException, match="not on NoClassifier; remove it"):
        trainer(tmp_path, ClassificationReport()).test(module, images())


#: Class 2 is neither a label nor a prediction, class 3 is predicted and no label.
LABELS = torch.tensor([0, 0, 1, 1])
LOGITS = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 2.5], [0, 3.0, 0, 0], [0, 2.0, 0, 0]])


def test_tables_by_hand() -> None:
    assert per_class_table(LOGITS, LABELS, ["a,b", "b", "c", "d"]).splitlines() == [
        "class,support,precision,recall,f1,auc",
        '"a,b",2,1.000000,0.500000,0.666667,0.750000',  # .87 and .07, against .04 and .10
        "b,2,1.000000,1.000000,1.000000,1.000000",
        "c,0,,,,",
        "d,0,0.000000,0.000000,0.000000,",
    ]
    groups = score_groups(LOGITS, LABELS, {"modality": ["CT", "MR", "US/x", "CT"]})
    assert [group[:4] for group in groups] == [
        ("all", "all", 4, 2),
        ("modality", "CT", 2, 1),
        ("modality", "MR", 2, 1),
        ("modality", "US/x", 0, 0),
    ]
    rows = list(csv.DictReader(groups_table(groups).splitlines()))
    assert [row["accuracy"] for row in rows] == ["0.750000", "0.500000", "1.000000", ""]
    # CT: recall 1/2 of class 0 and, because class 3 is one of CT's and was predicted there, 0 of class 3.
    assert [row["macro_recall"] for row in rows] == ["0.500000", "0.250000", "1.000000", ""]
    assert [row["balanced_accuracy"] for row in rows] == ["0.750000", "0.500000", "1.000000", ""]
    (group, *_) = [group for group in score_groups(LOGITS, LABELS, {"way": ["A/B"] * 4}) if group.way == "way"]
    assert "test/way_A_B/accuracy" in logged_metrics([group], "test")  # a slash would make another level
    logged = logged_metrics(groups, "test")
    assert {name.split("/")[1] for name in logged} == {"modality_CT", "modality_MR"}
    assert "test/modality_CT/macro_auc" not in logged  # one class has none


def test_picture_shows_shares_of_each_true_class() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 200, 0]])
    figure = confusion_figure(confusion, ["a", "b", "c"], ["x", "y", "y"], "test split")
    axes = figure.axes[0]
    shown = np.ma.filled(np.ma.asarray(axes.images[0].get_array()).astype(float), np.nan)
    np.testing.assert_allclose(shown, np.array([[0.75, 0.25, 0], [np.nan] * 3, [0, 1, 0]]))
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "75"),
        ((1, 0), "25"),
        ((1, 2), "100"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (0)", "c (200)"]
    assert (axes.get_xlabel(), axes.get_title()) == ("predicted", "test split")
    lines = np.array([np.asarray(line.get_xydata())[0] for line in axes.lines])  # between x and y, both ways
    np.testing.assert_allclose(lines, np.array([[0, 0.5], [0.5, 0]]))


@pytest.mark.parametrize("classes", [4, 15, 40, 165, 300])
def test_names_stand_clear_of_each_other_or_are_left_out(classes: int) -> None:
    names = [f"af-{'soft_tissue_' * (label % 4)}{label}" for label in range(classes)]
    figure = confusion_figure(torch.eye(classes, dtype=torch.long), names, ["x"] * (classes - 1) + ["y"])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    labels = [label for label in axes.get_yticklabels() if label.get_text()]
    assert (labels[0].get_text() == f"{names[0]} (1)") == (classes <= 200)
    boxes = sorted(label.get_window_extent().y0 for label in labels)
    height = labels[0].get_window_extent().height
    assert min(np.diff(boxes)) >= 0.95 * height
    assert axes.get_window_extent().width > 100


def test_lines_between_nearly_all_classes_are_left_out_and_long_names_cut() -> None:
    figure = confusion_figure(torch.eye(5, dtype=torch.long), ["n" * 60, *"abcd"], list("vwxyz"))
    assert len(figure.axes[0].lines) == 0
    assert figure.axes[0].get_xticklabels()[0].get_text() == "n" * 39 + "…"
