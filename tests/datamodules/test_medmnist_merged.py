"""Several sets as one problem of many modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tamis.datamodules import MedMNIST
from tamis.datamodules.image_sources import ArrayImages, ImageSource, SquareCrop
from tamis.datamodules.medmnist_files import read_array
from tamis.datamodules.merged_images import MergedImages

COUNTS = {"train": 9, "val": 6, "test": 7}


def write(path: Path, size: int, classes: int, colour: bool = False, seed: int = 0, **changes: Any) -> Path:
    """Random images; the labels count round."""
    draw, arrays = np.random.default_rng(seed), dict[str, Any]()
    for split, count in COUNTS.items():
        shape = (count, size, size, 3) if colour else (count, size, size)
        arrays[f"{split}_images"] = draw.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes).astype(np.uint8).reshape(-1, 1)
    np.savez(path, **arrays | changes)
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Two classes at 28 pixels, three at 32, four in colour at 20."""
    paths = [tmp_path / name for name in ("ct.npz", "us.npz", "eye.npz")]
    write(paths[0], 28, 2)
    write(paths[1], 32, 3, seed=1)
    write(paths[2], 20, 4, colour=True, seed=2)
    return [str(path) for path in paths]


def images_of(path: str, split: str) -> NDArray[np.generic]:
    return read_array(Path(path), f"{split}_images")


def test_classes_follow_each_other(three: list[str]) -> None:
    data = MedMNIST(three, image_size=28)
    data.setup("fit")
    data.setup("test")
    assert data.class_names == ["ct:0", "ct:1", "us:0", "us:1", "us:2", "eye:0", "eye:1", "eye:2", "eye:3"]
    assert (data.num_classes, data.label_kind) == (9, "single")
    # 9 = 5 + 4 = 3 + 3 + 3 = 3 + 2 + 2 + 2: the counts of labels that count round
    assert data.class_counts().tolist() == [5, 4, 3, 3, 3, 3, 2, 2, 2]
    assert data.split("val").labels.tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 5, 6]
    assert data.split("test").images == 21


def test_a_class_that_a_split_lacks_keeps_its_number(three: list[str]) -> None:
    write(Path(three[0]), 28, 2, val_labels=np.zeros(6, dtype=np.uint8))
    data = MedMNIST(three)
    data.setup("fit")
    assert data.split("val").labels.tolist() == [0] * 6 + [2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 5, 6]


def test_images_of_all_sizes_and_colours_come_at_one_size(three: list[str]) -> None:
    data = MedMNIST(three, batch_size=18, image_size=24)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch.images.shape == (18, 3, 24, 24)
    for number, path in enumerate(three):
        alone = MedMNIST(path, batch_size=6, image_size=24)
        alone.setup("fit")
        images = next(iter(alone.val_dataloader())).images.expand(-1, 3, -1, -1)
        torch.testing.assert_close(batch.images[6 * number : 6 * number + 6], images, rtol=0, atol=0)


def test_grey_sets_stay_in_one_channel(three: list[str]) -> None:
    data = MedMNIST(three[:2], batch_size=4)
    data.setup("fit")
    loaded = next(iter(data.train_dataloader()))
    assert loaded.images.shape == (4, 1, 28, 28)
    assert data.on_after_batch_transfer(loaded, 0).images.shape == (4, 3, 28, 28)


def test_the_order_of_the_sets_is_the_order_of_the_classes(three: list[str]) -> None:
    names = MedMNIST(three[::-1]).class_names
    assert names[:5] == ["eye:0", "eye:1", "eye:2", "eye:3", "us:0"]
    assert sorted(names) == sorted(MedMNIST(three).class_names)


def test_merged_batches_do_not_depend_on_the_workers(three: list[str]) -> None:
    epochs = []
    for workers in (0, 2):
        data = MedMNIST(three, batch_size=5, num_workers=workers, cache=workers == 2, data_seed=3)
        data.prepare_data()
        data.setup("fit")
        epochs.append(list(data.train_dataloader()))
    torch.testing.assert_close(epochs[0], epochs[1], rtol=0, atol=0)


def test_classes_and_whole_sets_can_be_held_out(three: list[str]) -> None:
    data = MedMNIST(three, only_classes=["ct:*", "eye:*"], without_classes=["eye:1"])
    data.setup("fit")
    assert data.class_names == ["ct:0", "ct:1", "eye:0", "eye:2", "eye:3"]
    assert data.class_groups == {"dataset": ["ct", "ct", "eye", "eye", "eye"]}
    assert data.class_counts().tolist() == [5, 4, 3, 2, 2]
    alone = MedMNIST(three[:1])
    assert alone.class_names == ["0", "1"]
    assert alone.class_groups == {}


def test_groups_are_the_sets_and_the_modalities_that_are_known(tmp_path: Path, three: list[str]) -> None:
    arrays: dict[str, Any] = {}
    for split, count in (("train", 546), ("val", 78), ("test", 156)):
        arrays[f"{split}_images"] = np.zeros((count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)
    np.savez_compressed(tmp_path / "breastmnist.npz", **arrays)
    data = MedMNIST([three[0], str(tmp_path / "breastmnist.npz")])
    assert data.class_names == ["ct:0", "ct:1", "breastmnist:malignant", "breastmnist:normal or benign"]
    assert data.class_groups == {
        "dataset": ["ct", "ct", "breastmnist", "breastmnist"],
        "modality": ["other", "other", "US", "US"],
    }


def test_balanced_sampling_draws_each_class_as_often(tmp_path: Path) -> None:
    large = write(tmp_path / "large.npz", 8, 2)
    many: dict[str, Any] = {"train_images": np.zeros((900, 8, 8), dtype=np.uint8), "train_labels": np.arange(900) % 2}
    write(large, 8, 2, **many)
    small = write(tmp_path / "small.npz", 8, 3)
    data = MedMNIST([str(large), str(small)], sampling="balanced", batch_size=909, data_seed=0, image_size=8)
    data.setup("fit")
    counts = next(iter(data.train_dataloader())).labels.bincount(minlength=5)
    # 909 draws of 5 classes: 181.8 each, standard deviation sqrt(909 * .2 * .8) = 12.1
    assert (counts - 181.8).abs().max() < 4 * 12.1


def test_sets_that_cannot_be_merged(tmp_path: Path, three: list[str]) -> None:
    labels = {split: np.zeros((count, 3), dtype=np.uint8) for split, count in COUNTS.items()}
    several: dict[str, Any] = {f"{split}_labels": found for split, found in labels.items()}
    chest = write(tmp_path / "chest.npz", 28, 2, **several)
    with pytest.raises(ValueError, match=r"chest\.npz has several labels .* train on it alone, or leave it out"):
        MedMNIST([*three, str(chest)]).setup("fit")
    (tmp_path / "other").mkdir()
    again = write(tmp_path / "other" / "ct.npz", 28, 2)
    with pytest.raises(ValueError, match=r"other/ct\.npz are both the set ct, .* rename a file"):
        MedMNIST([*three, str(again)]).setup("fit")
    with pytest.raises(ValueError, match="empty list"):
        MedMNIST([])


def test_sets_by_name_lie_in_the_package_s_folder(tmp_path: Path) -> None:
    home = MedMNIST("organamnist")
    assert home.download_root == Path.home() / ".medmnist"
    with pytest.raises(FileNotFoundError, match="organamnist_224.npz does not exist"):
        MedMNIST(["organamnist_224"], download_root=str(tmp_path)).setup("fit")


def test_an_error_names_the_set_that_has_it(three: list[str], tmp_path: Path) -> None:
    wrong = write(tmp_path / "wrong.npz", 28, 2, val_labels=np.full(6, 2))
    with pytest.raises(ValueError, match=r"wrong\.npz: val_labels has the class 2, which the training split lacks"):
        MedMNIST([*three, str(wrong)]).setup("fit")


def sources() -> list[ImageSource]:
    draw = np.random.default_rng(0)
    shapes = [(3, 9, 9), (1, 7, 8), (4, 12, 10, 3)]
    return [ArrayImages(torch.from_numpy(draw.integers(0, 256, shape, dtype=np.uint8))) for shape in shapes]


def test_a_merged_source_reads_one_after_the_other() -> None:
    merged, square = MergedImages(sources()), SquareCrop(6, 6)
    single = [source.read(index).expand(3, -1, -1) for source in sources() for index in range(len(source))]
    assert len(merged) == len(single) == 8
    for index, image in enumerate(single):
        assert torch.equal(merged.read(index), image)
    for indices in ([0], [7, 0, 3, 3, 5], [2, 1, 0], list(range(8))):
        torch.testing.assert_close(
            merged.read_batch(indices, square),
            torch.stack([square(single[index]) for index in indices]),
            rtol=0,
            atol=1,
        )
    for wrong in (8, -1):
        with pytest.raises(IndexError, match=f"no image {wrong}; the merged sources have 8"):
            merged.read(wrong)
