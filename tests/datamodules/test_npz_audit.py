"""The audit of a file in MedMNIST's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.datamodules.audit import main

NOTHING = dict.fromkeys(
    ("missing", "unreadable", "blank", "label_conflict", "two_splits", "duplicate", "group_in_two_splits"), 0
)


def json_report(root: Path, file: Path, *options: str) -> tuple[int, dict[str, object]]:
    status = main([str(root), "--workers", "1", "--json", str(file), *options])
    return status, json.loads(file.read_text())


def test_arrays_like_medmnists(tmp_path: Path, npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = json_report(npz, tmp_path / "a.json")
    assert (sound[0], sound[1]["faults"]) == (0, NOTHING)
    with np.load(npz) as arrays:
        planted = {name: arrays[name].copy() for name in arrays.files}
    planted["train_images"][3] = 9
    planted["train_images"][5] = planted["train_images"][2]
    planted["train_images"][6] = planted["train_images"][1]
    planted["test_images"][4] = planted["val_images"][4]
    np.savez(tmp_path / "planted.npz", **planted)
    status, found = json_report(tmp_path / "planted.npz", tmp_path / "b.json", "--folder", str(tmp_path))
    assert status == 1
    assert found["faults"] == NOTHING | {"blank": 1, "duplicate": 1, "label_conflict": 1, "two_splits": 1}
    printed = capsys.readouterr().out
    assert "  train_images[3] (planted.npz): every pixel is 9" in printed
    assert "train_images[1] (planted.npz) = train_images[6] (planted.npz): the same pixels as 0 (1), 1 (1)" in printed
    assert "--data.audit" not in printed
    assert f"written: {tmp_path}/audit.csv" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "audit.csv", "b.json", "planted.npz"]
    levels = found["levels"]["train"]  # type: ignore[index]
    assert levels["mean"] == pytest.approx(planted["train_images"].mean() / 255)
    assert levels["std"] == pytest.approx(planted["train_images"].std() / 255)


def test_arrays_of_several_labels_and_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = draw.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]])
    np.savez(tmp_path / "set.npz", **arrays)
    status, found = json_report(tmp_path / "set.npz", tmp_path / "a.json")
    assert status == 0
    assert found["classes"] == {split: {"0+2": 1, "1": 1, "none": 2} for split in ("train", "val", "test")}
    assert "3 combinations of labels" in capsys.readouterr().out
