"""The table of official sets, and what is taken for one of them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.datamodules import MedMNIST
from tamis.datamodules.medmnist_download import compare_md5
from tamis.datamodules.medmnist_sets import OFFICIAL_SETS, SIZES, official_file

BREAST = {"train": 546, "val": 78, "test": 156}


def breast(path: Path, size: int = 28, images: dict[str, int] = BREAST, colour: bool = False) -> Path:
    """A file with as many images as BreastMNIST."""
    arrays: dict[str, Any] = {}
    for split, count in images.items():
        arrays[f"{split}_images"] = np.zeros((count, size, size, 3) if colour else (count, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1)
    np.savez_compressed(path, **arrays)
    return path


def test_the_table_adds_up() -> None:
    """To the published total of 2D images, with no two files alike."""
    assert sum(sum(facts.images) for facts in OFFICIAL_SETS) == 707_962
    sums = [md5 for facts in OFFICIAL_SETS for md5 in facts.md5]
    assert len(set(sums)) == 12 * 4
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in sums)
    assert [facts.flag for facts in OFFICIAL_SETS if "NC" in facts.licence] == ["dermamnist"]
    assert sorted(len(facts.class_names) for facts in OFFICIAL_SETS) == [2, 2, 4, 5, 7, 8, 8, 9, 11, 11, 11, 14]
    for facts in OFFICIAL_SETS:
        assert len(set(facts.class_names)) == len(facts.class_names)
        assert not re.search(r"[,:*?\[\]]", "".join(facts.class_names))  # what lists and patterns need for themselves
        assert (facts.task == "binary") == (len(facts.class_names) == 2)


def test_file_names() -> None:
    for facts in OFFICIAL_SETS:
        for size in SIZES:
            found = official_file(f"{facts.flag}_{size}")
            assert found is not None
            assert (found.facts.flag, found.size, found.md5) == (facts.flag, size, facts.md5[SIZES.index(size)])
    plain, large = official_file("breastmnist"), official_file("breastmnist_224")
    assert plain is not None
    assert large is not None
    assert (plain.name, plain.size, large.name) == ("breastmnist.npz", 28, "breastmnist_224.npz")
    for other in ("breast", "breastmnist_32", "breastmnist.npz", "mybreastmnist", "organmnist3d", ""):
        assert official_file(other) is None


@pytest.mark.parametrize("size", [28, 64])
def test_an_official_set_has_names(size: int, tmp_path: Path) -> None:
    data = MedMNIST(str(breast(tmp_path / ("breastmnist.npz" if size == 28 else "breastmnist_64.npz"), size)))
    assert data.class_names == ["malignant", "normal or benign"]
    assert data.label_kind == "single"


DIFFERENT: dict[str, dict[str, Any]] = {
    "no test split": {"images": {"train": 546, "val": 78}},
    "fewer images": {"images": {**BREAST, "val": 77}},
    "another size": {"size": 32},
    "colour": {"colour": True},
}


@pytest.mark.parametrize("different", DIFFERENT)
def test_a_file_under_an_official_name_that_cannot_be_it(different: str, tmp_path: Path) -> None:
    data = MedMNIST(str(breast(tmp_path / "breastmnist.npz", **DIFFERENT[different])))
    with pytest.warns(UserWarning, match="not the number and shape of its images; its classes are 0 to 1"):
        data.prepare_data()
    assert data.class_names == ["0", "1"]


def test_another_md5_is_a_warning(tmp_path: Path) -> None:
    data = MedMNIST(str(breast(tmp_path / "breastmnist.npz")), cache=True)
    with pytest.warns(UserWarning, match=r"breastmnist\.npz: its MD5 is [0-9a-f]{32}, not 750601b1f35ba330"):
        data.prepare_data()
    with warnings.catch_warnings():  # what is extracted comes of a file that was compared
        warnings.simplefilter("error")
        data.prepare_data()
    data.setup("test")
    assert data.split("test").images == 156


def test_the_right_md5_is_none(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    official = official_file("breastmnist")
    assert official is not None
    facts = official.facts._replace(md5=("900150983cd24fb0d6963f7d28e17f72", "", "", ""))  # of abc: RFC 1321, A.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_md5(path, official._replace(facts=facts))


def test_a_file_of_another_name_is_accepted_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MedMNIST(str(breast(tmp_path / "mine.npz"))).prepare_data()
    assert "mine.npz is not named as a file of MedMNIST; its classes are 0 to 1" in caplog.text


def test_ordinal(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for split, count in (("train", 1080), ("val", 120), ("test", 400)):
        arrays[f"{split}_images"] = np.zeros((count, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 5).astype(np.uint8).reshape(-1, 1)
    np.savez_compressed(tmp_path / "retinamnist.npz", **arrays)
    retina, other = str(tmp_path / "retinamnist.npz"), str(breast(tmp_path / "mine.npz"))
    assert MedMNIST(retina).label_kind == "ordinal"
    assert MedMNIST(retina, ordinal=False).label_kind == "single"
    assert MedMNIST(other).label_kind == "single"
    assert MedMNIST(other, ordinal=True).label_kind == "ordinal"
    assert MedMNIST([retina, other]).label_kind == "single"


def test_ordinal_that_cannot_be(tmp_path: Path) -> None:
    path = str(breast(tmp_path / "set.npz"))
    with pytest.raises(ValueError, match="no order in common"):
        MedMNIST([path, path], ordinal=True)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {f"{split}_labels": np.zeros((n, 3), dtype=np.uint8) for split, n in BREAST.items()})
    with pytest.raises(ValueError, match=r"set\.npz has several labels an image, which cannot be ordinal"):
        _ = MedMNIST(path, ordinal=True).label_kind


@pytest.mark.parametrize("labels", [14, 13])
def test_several_labels_of_an_official_set_have_names(labels: int, tmp_path: Path) -> None:
    """The same images with other labels are another set."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", 78_468), ("val", 11_219), ("test", 22_433)):
        arrays[f"{split}_images"] = np.broadcast_to(np.uint8(0), (count, 28, 28))
        arrays[f"{split}_labels"] = np.zeros((count, labels), dtype=np.uint8)
    np.savez_compressed(tmp_path / "chestmnist.npz", **arrays)
    data = MedMNIST(str(tmp_path / "chestmnist.npz"))
    assert data.label_kind == "multi"
    assert (data.num_classes, data.class_names[-1]) == ((14, "hernia") if labels == 14 else (13, "12"))
