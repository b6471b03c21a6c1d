"""Arrays of npz files: read, refused, extracted, mapped."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis.datamodules import MedMNIST
from tamis.datamodules.image_sources import ArrayImages, SquareCrop
from tamis.datamodules.medmnist_files import MappedArrayImages, extract_array, read_array, read_header


def write(path: Path, **changes: Any) -> Path:
    """Three images of three classes in each split, with some arrays replaced, or left out by None."""
    arrays: dict[str, Any] = {f"{split}_labels": np.arange(3, dtype=np.uint8) for split in ("train", "val", "test")}
    arrays |= {f"{split}_images": np.full((3, 8, 8), 7, dtype=np.uint8) for split in ("train", "val", "test")}
    np.savez_compressed(path, **{key: array for key, array in (arrays | changes).items() if array is not None})
    return path


GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)

WRONG: dict[str, tuple[dict[str, object], str]] = {
    "float images": ({"train_images": np.zeros((3, 8, 8), dtype=np.float32)}, r"uint8 .* got float32 \[3, 8, 8\]"),
    "one image": ({"train_images": np.zeros((8, 8), dtype=np.uint8)}, r"got uint8 \[8, 8\]$"),
    "volumes": ({"train_images": np.zeros((3, 8, 8, 8), dtype=np.uint8)}, "sets of volumes are not supported"),
    "four channels": ({"train_images": np.zeros((3, 8, 8, 4), dtype=np.uint8)}, r"got uint8 \[3, 8, 8, 4\]"),
    "no image": (
        {"train_images": np.zeros((0, 8, 8), dtype=np.uint8), "train_labels": np.zeros(0, dtype=np.uint8)},
        "train_images must be .* of one image at least",
    ),
    "fewer labels": ({"train_labels": np.zeros(2, dtype=np.uint8)}, "3 images, but there are 2 labels"),
    "negative label": ({"train_labels": np.array([0, -1, 1])}, "train_labels has the label -1; labels count from 0"),
    "class beyond": ({"val_labels": np.array([0, 1, 3])}, "val_labels has the class 3, .* classes are 0 to 2"),
    "float labels": ({"train_labels": np.zeros(3)}, r"train_labels must be whole numbers .* float64 \[3\]"),
    "names as labels": ({"train_labels": np.array(["a", "b", "c"])}, "train_labels must be whole numbers"),
    "labels of rank 3": ({"train_labels": np.zeros((3, 1, 1), dtype=int)}, r"whole numbers .*\[3, 1, 1\]"),
    "several labels in one split": ({"val_labels": np.zeros((3, 2), dtype=int)}, "unlike the training split's labels"),
    "other labels": (
        {f"{split}_labels": np.zeros((3, 4 + (split == "val")), dtype=int) for split in ("train", "val")},
        r"val_labels is \[3, 5\], unlike the training",
    ),
    "counts of labels": (
        {f"{split}_labels": np.full((3, 4), 2) for split in ("train", "val")},
        "several labels an image must be 0 or 1, got 2",
    ),
    "missing images": ({"val_images": None}, "lacks the array val_images; it has: train_labels, val_labels"),
    "missing labels": ({"train_labels": None}, "lacks the array train_labels"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arrays_that_are_refused(wrong: str, tmp_path: Path) -> None:
    changes, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message) as error:
        MedMNIST(str(write(tmp_path / "set.npz", **changes))).setup("fit")
    assert str(tmp_path / "set.npz") in str(error.value)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.file), os.O_CREAT)


@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_nothing_is_unpickled(key: str, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))
    (tmp_path / "sprung").unlink()  # it works, and is set again
    path = write(tmp_path / "set.npz", **{key: np.array([trap, trap, trap], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle|must be uint8"):
        MedMNIST(str(path)).setup("fit")
    with pytest.raises(ValueError, match=rf"{key} cannot be read: .*Python objects"):
        extract_array(path, key, tmp_path / "cache")
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_file_and_a_flipped_bit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    path = write(tmp_path / "set.npz", train_images=noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"set\.npz is no npz \(or only part of one\)"):
        MedMNIST(str(path)).setup("fit")
    with zipfile.ZipFile(write(path, train_images=noise)) as archive:
        inside = archive.getinfo("train_images.npy").header_offset + 4096
    broken = bytearray(whole)
    broken[inside] ^= 1
    path.write_bytes(broken)
    for read in (read_array, lambda path, key: extract_array(path, key, tmp_path / "cache")):
        with pytest.raises(ValueError, match=r"train_images cannot be read: .*if the file is damaged, get it again"):
            read(path, "train_images")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_an_array_shorter_than_its_header_says(tmp_path: Path) -> None:
    np.save(tmp_path / "train_images.npy", GREY)
    short = (tmp_path / "train_images.npy").read_bytes()[:-10]
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", short)
    with pytest.raises(ValueError, match="cannot be read"):
        read_array(tmp_path / "set.npz", "train_images")
    with pytest.raises(ValueError, match="cannot be read"):
        extract_array(tmp_path / "set.npz", "train_images", tmp_path / "cache")


def test_a_disk_with_too_little_room(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive, archive.open("train_images.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
        np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(OSError, match=r"needs 1000000\.0 GB in .* GB free; name a larger disk by cache_dir"):
        extract_array(tmp_path / "set.npz", "train_images", tmp_path / "cache")


def test_a_header_is_read_without_its_array(tmp_path: Path) -> None:
    path = write(tmp_path / "set.npz", train_images=COLOUR)
    assert read_header(path, "train_images") == ((5, 6, 7, 3), np.dtype("uint8"))


@pytest.mark.parametrize("images", [GREY, COLOUR, np.asfortranarray(GREY)], ids=["grey", "colour", "fortran"])
def test_extracted_images_are_the_same(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "set.npz", train_images=images)
    file = extract_array(path, "train_images", tmp_path / "cache")
    mapped, whole = MappedArrayImages(file), ArrayImages(torch.from_numpy(np.ascontiguousarray(images)))
    assert len(mapped) == 5
    for index in range(5):
        torch.testing.assert_close(mapped.read(index), whole.read(index), rtol=0, atol=0)
    square = SquareCrop(4, 4)
    torch.testing.assert_close(mapped.read_batch([3, 0, 3], square), whole.read_batch([3, 0, 3], square))
    again: MappedArrayImages = pickle.loads(pickle.dumps(mapped))
    assert len(pickle.dumps(mapped)) < 400
    torch.testing.assert_close(again.read(2), mapped.read(2))


def test_what_is_extracted_is_read_only(tmp_path: Path) -> None:
    file = extract_array(write(tmp_path / "set.npz", train_images=GREY), "train_images", tmp_path / "cache")
    mapped = MappedArrayImages(file)
    mapped.read(0).zero_()
    mapped.read_batch([0, 1], SquareCrop(6, 6)).zero_()
    np.testing.assert_array_equal(np.load(file), GREY)
    assert file.stat().st_mode & 0o222 == 0


def test_extracted_once_and_again_when_the_npz_changes(tmp_path: Path) -> None:
    path, cache = write(tmp_path / "set.npz", train_images=GREY), tmp_path / "cache"
    first = extract_array(path, "train_images", cache)
    made = first.stat().st_mtime_ns
    assert extract_array(path, "train_images", cache) == first
    assert first.stat().st_mtime_ns == made
    write(path, train_images=GREY[::-1].copy())
    os.utime(path, ns=(0, 12345))
    second = extract_array(path, "train_images", cache)
    np.testing.assert_array_equal(np.load(second), GREY[::-1])
    np.testing.assert_array_equal(np.load(first), GREY)  # for whoever still maps it


def test_files_of_one_name_do_not_meet_in_one_cache(tmp_path: Path) -> None:
    files = []
    for name, images in (("a", GREY), ("b", GREY + 1)):
        (tmp_path / name).mkdir()
        files.append(write(tmp_path / name / "set.npz", train_images=images))
        os.utime(files[-1], ns=(0, 12345))
    first, second = (np.load(extract_array(path, "train_images", tmp_path / "cache")) for path in files)
    np.testing.assert_array_equal(first, GREY)
    np.testing.assert_array_equal(second, GREY + 1)


def test_a_cached_set_gives_the_batches_of_one_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "set.npz", train_images=GREY[:3], val_images=COLOUR[:3])
    batches = []
    for options in ({}, {"cache": True}, {"cache": True, "cache_dir": str(tmp_path / "elsewhere"), "num_workers": 1}):
        data = MedMNIST(str(path), batch_size=3, image_size=8, **options)
        data.prepare_data()
        data.setup("fit")
        batches.append([next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader())])
    for other in batches[1:]:
        torch.testing.assert_close(other, batches[0], rtol=0, atol=0)
    for folder in (tmp_path / ".tamis", tmp_path / "elsewhere"):
        assert {file.name for file in folder.rglob("*.npy")} == {f"{x}_images.npy" for x in ("train", "val", "test")}


def test_a_split_that_is_not_asked_for_may_be_missing(tmp_path: Path) -> None:
    data = MedMNIST(str(write(tmp_path / "set.npz", test_images=None, test_labels=None)), cache=True)
    data.prepare_data()
    data.setup("fit")
    assert data.split("val").images == 3
    with pytest.raises(ValueError, match="lacks the array test_labels"):
        data.setup("test")


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    data = MedMNIST(str(write(tmp_path / "set.npz")), cache=True, cache_dir=str(tmp_path / "taken"))
    with pytest.raises(OSError, match="name another by cache_dir"):
        data.prepare_data()
