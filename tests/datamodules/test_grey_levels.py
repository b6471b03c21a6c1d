"""Measured means and deviations of grey images: by hand, by split, by modality."""

import math
from pathlib import Path

import pytest
from PIL import Image

from tamis.datamodules.grey_levels import measure_levels, modality_of, pool_levels
from tamis.datamodules.image_table import ImageTable
from tamis.datamodules.manifest import FileRecord
from tamis.datamodules.scanning import update_manifest


def record(file: str, mean: float, mean_square: float, error: str = "") -> FileRecord:
    return FileRecord(file, 1, 2, mean=mean, mean_square=mean_square, error=error)


def test_levels_worked_out_by_hand() -> None:
    # Means 0.2 and 0.6 give 0.4; mean squares 0.1 and 0.5 give 0.3; sqrt(0.3 - 0.16) = 0.3742.
    levels = pool_levels([record("a", 0.2, 0.1), record("b", 0.6, 0.5), record("c", 0, 0, "broken")])
    assert levels == pytest.approx((2, 0.4, 0.14**0.5))
    assert pool_levels([record("a", 0.3, 0.3**2)]).std == 0
    empty = pool_levels([])
    assert empty.images == 0
    assert math.isnan(empty.mean)


def test_an_image_weighs_the_same_whatever_its_size(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(tmp_path / "large.png")
    Image.new("L", (10, 10), 0).save(tmp_path / "small.png")
    manifest = update_manifest(tmp_path, ["large.png", "small.png"])
    tables = {"train": ImageTable("t", ["large.png", "small.png"], ["x", "x"])}
    assert measure_levels(tables, manifest)["all"] == (2, 0.5, 0.5)


def test_levels_by_split_and_modality() -> None:
    files = ["CT/abd/normal/a.png", "US/gb/b.png", "MR/brain/edema/c.png"]
    manifest = {file: record(file, mean, mean) for file, mean in zip(files, (0.1, 0.2, 0.6), strict=True)}
    tables = {
        "train": ImageTable("t", files[:2], ["CT__abd__normal", "US__gb"]),
        "val": ImageTable("v", files[2:], ["anything"]),
    }
    levels = measure_levels(tables, manifest)
    assert list(levels) == ["all", "train", "val", "CT", "MR", "US"]
    assert levels["all"].mean == pytest.approx(0.3)
    assert levels["train"].mean == pytest.approx(0.15)
    assert levels["MR"] == pytest.approx((1, 0.6, 0.24**0.5))
    assert list(measure_levels({"val": tables["val"]}, manifest)) == ["all", "val"]


@pytest.mark.parametrize(
    ("file", "label", "expected"),
    [
        ("x/y.png", "MR__knee__normal", "MR"),
        ("radiology_ai/US/gb/1.png", "anything", "US"),
        ("CT/somewhere/1.png", "anything", "CT"),
        ("train/dogs/1.png", "dogs", "other"),
    ],
)
def test_modality_by_class_or_folder(file: str, label: str, expected: str) -> None:
    assert modality_of(file, label) == expected
