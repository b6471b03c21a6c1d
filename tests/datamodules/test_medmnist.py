import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis.datamodules import MedMNIST
from tamis.datamodules.image_sources import SquareCrop
from tamis.datamodules.medmnist_files import extract_array

COUNTS = {"train": 6, "val": 4, "test": 4}


def write_npz(path: Path, colour: bool = False, flat_labels: bool = False, **changes: object) -> Path:
    arrays: dict[str, object] = {}
    for split, count in COUNTS.items():
        shape = (count, 28, 28, 3) if colour else (count, 28, 28)
        arrays[f"{split}_images"] = np.full(shape, 51, dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        arrays[f"{split}_labels"] = labels if flat_labels else labels.reshape(-1, 1)
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("flat_labels", [True, False])
@pytest.mark.parametrize("image_size", [28, 32])
def test_batches(tmp_path: Path, colour: bool, flat_labels: bool, image_size: int) -> None:
    data = MedMNIST(str(write_npz(tmp_path / "set.npz", colour, flat_labels)), batch_size=4, image_size=image_size)
    data.setup("test")
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    torch.testing.assert_close(batch.images, torch.full((4, 3, image_size, image_size), (0.2 - 0.5) / 0.5))
    assert batch.labels.tolist() == [0, 1, 2, 0]
    assert data.class_names == ["0", "1", "2"]


def test_colour_channels_keep_their_order(tmp_path: Path) -> None:
    images = np.zeros((4, 28, 28, 3), dtype=np.uint8)
    images[..., 2] = 255
    data = MedMNIST(str(write_npz(tmp_path / "set.npz", colour=True, test_images=images)))
    data.setup("test")
    assert data.split("test").source.read(0).amax(dim=(1, 2)).tolist() == [0, 0, 255]


def test_missing_file_and_missing_array(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        MedMNIST(str(tmp_path / "nowhere.npz")).setup("fit")
    path = write_npz(tmp_path / "set.npz", val_images=None)
    with pytest.raises(ValueError, match="lacks the array val_images; it has: train_images, train_labels, val_labels"):
        MedMNIST(str(path)).setup("fit")


def test_file_that_is_no_npz(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="is no npz"):
        MedMNIST(str(tmp_path / "set.npz")).setup("fit")


def test_several_labels_an_image(tmp_path: Path) -> None:
    several: dict[str, Any] = {f"{split}_labels": np.eye(count, 4, dtype=np.uint8) for split, count in COUNTS.items()}
    data = MedMNIST(str(write_npz(tmp_path / "set.npz", **several)), batch_size=4)
    data.setup("fit")
    assert (data.label_kind, data.class_names) == ("multi", ["0", "1", "2", "3"])
    assert data.class_counts().tolist() == [1, 1, 1, 1]
    batch = next(iter(data.val_dataloader()))
    torch.testing.assert_close(batch.labels, torch.eye(4))


def test_class_that_training_lacks(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", val_labels=np.array([0, 1, 2, 9], dtype=np.uint8))
    with pytest.raises(ValueError, match="val_labels has the class 9"):
        MedMNIST(str(path)).setup("fit")


def test_more_labels_than_images(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", val_labels=np.zeros(7, dtype=np.uint8))
    with pytest.raises(ValueError, match="as many labels"):
        MedMNIST(str(path)).setup("fit")


def test_evaluation_sees_the_whole_image_and_training_what_is_stored(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    data = MedMNIST(str(write_npz(tmp_path / "set.npz", val_images=images)), stored_size=40)
    data.setup("fit")
    torch.testing.assert_close(next(iter(data.val_dataloader())).images[:, 0], torch.from_numpy(images))
    assert data.square("train") == SquareCrop(40, 40)
    assert MedMNIST("set.npz", eval_resize=32).square("val") == SquareCrop(32, 28)


def test_extracting_needs_little_memory(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", train_images=np.zeros((6, 1600, 1600), dtype=np.uint8))
    tracemalloc.start()
    try:
        extract_array(path, "train_images", tmp_path / "cache")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * 1600 * 1600 / 2  # of 15 MB


@pytest.mark.parametrize("options", [{"shots": 1}, {"sampling": "balanced"}, {"only_classes": ["1", "2"]}])
def test_what_needs_one_class_an_image_refuses_several_labels(tmp_path: Path, options: dict[str, Any]) -> None:
    several: dict[str, Any] = {f"{split}_labels": np.eye(count, 4, dtype=np.uint8) for split, count in COUNTS.items()}
    data = MedMNIST(str(write_npz(tmp_path / "set.npz", **several)), **options)
    with pytest.raises(ValueError, match="need one class an image; these have several labels each"):
        data.setup("fit")
