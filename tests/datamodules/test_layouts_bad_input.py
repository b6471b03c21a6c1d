"""Folders and CSVs of images that cannot be read as they are: what is said of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tamis.datamodules.layouts import read_layout

ROWS = [
    ("radiology_ai/CT/abd/normal/abd-normal000001.png", "abd-normal"),
    ("radiology_ai/MR/knee/acl_pathology/knee000002.png", "knee-acl_pathology"),
    ("radiology_ai/MR/mriabd/normal/abd000003.png", "mriabd-normal"),
    ("radiology_ai/US/gb/usn000004.png", "usabd-gb"),
]


def write_csv(file: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("filename", "label")) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def touch(root: Path, *names: str) -> None:
    """Files without content: a layout is told by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; the root .* RadiologyAI_\{train,val,test\}"):
        read_layout(tmp_path / "nowhere")


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds nothing, but none of: RadiologyAI_"):
        read_layout(tmp_path)
    touch(tmp_path, *(f"{number}.png" for number in range(6)), "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"holds 0.png, .* 4.png ... \(6 images without a class\), but none of"):
        read_layout(tmp_path)


def test_folders_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/notes.txt")
    with pytest.raises(ValueError, match=r"train holds no image in a folder of a class; images end with .png"):
        read_layout(tmp_path)


def test_two_folders_or_csvs_of_one_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png", "val/cat/1.png", "valid/cat/1.png")
    with pytest.raises(ValueError, match="more than one val split: val, valid"):
        read_layout(tmp_path)
    write_csv(tmp_path / "test.csv", ROWS)
    write_csv(tmp_path / "testing.csv", ROWS)
    with pytest.raises(ValueError, match=r"more than one test split: test.csv, testing.csv"):
        read_layout(tmp_path)


def test_several_csvs_of_other_names(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ROWS)
    write_csv(tmp_path / "b.csv", ROWS)
    with pytest.raises(ValueError, match=r"several CSVs of images, a.csv, b.csv: name them train.csv"):
        read_layout(tmp_path)


def test_a_csv_without_the_columns(tmp_path: Path) -> None:
    for name in ("labels.csv", "RadiologyAI_train.csv"):
        write_csv(tmp_path / name, ROWS, ("path", "class"))
        with pytest.raises(ValueError, match=rf"{name} must have the columns filename and label, found: path, class"):
            read_layout(tmp_path)
        (tmp_path / name).write_text("")
        with pytest.raises(ValueError, match=rf"{name} must have the columns .*, found: none"):
            read_layout(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"names no image: the val split is empty"),
        (["", ""], r"names no image: the val split is empty"),
        (["a.png,cat", "b.png"], r"line 3 has 1 cells, the header asks for more"),
        (["a.png,cat", "b.png, "], r"line 3: the label is empty"),
        (["a.png,cat", ",dog"], r"line 3: the filename is empty"),
        (["a.png,cat", '"b\n.png",dog', "/etc/x.png,dog"], r"line 5: /etc/x.png lies outside"),
        (["a/../../x.png,cat"], r"line 2: a/../../x.png lies outside .*; file names are relative to the CSV's folder"),
        (["..\\x.png,cat"], r"line 2: ..\\x.png lies outside"),
        (["C:x.png,cat"], r"line 2: C:x.png lies outside"),
        (["C:\\data\\x.png,cat"], r"line 2: C:\\data\\x.png lies outside"),
        ([".,cat"], r"line 2: . lies outside"),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "RadiologyAI_val.csv").write_text("\n".join(["filename,label", *lines]) + "\n")
    with pytest.raises(ValueError, match=f"RadiologyAI_val.csv.* {message}" if message[0] == "n" else message):
        read_layout(tmp_path)


def test_names_that_stay_inside_are_made_plain(tmp_path: Path) -> None:
    names = [f"{tmp_path.resolve()}/a.png", "b/../c.png", "./d.png", "e..f/..g.png", "..h.png", "i//j.png"]
    write_csv(tmp_path / "train.csv", [(name, "cat") for name in names])
    plain = ["a.png", "c.png", "d.png", "e..f/..g.png", "..h.png", "i/j.png"]
    assert read_layout(tmp_path).table("train").files == plain


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("patient", ["p1", ""], r"all.csv, line 3: the patient is empty"),
        ("slice", ["3", "-1"], r"all.csv, line 3: the slice -1 is no number from 0"),
        ("slice", ["middle", "1"], r"all.csv, line 2: the slice middle is no number"),
        ("split", ["train", "dev"], r"all.csv, line 3: the split must be train, val or test, got dev"),
        ("split", ["train", ""], r"all.csv, line 3: the split must be train, val or test, got nothing"),
    ],
)
def test_cells_that_cannot_be(tmp_path: Path, column: str, cells: list[str], message: str) -> None:
    write_csv(tmp_path / "all.csv", [("a.png", "x", cells[0]), ("b.png", "y", cells[1])], ("filename", "label", column))
    with pytest.raises(ValueError, match=message):
        read_layout(tmp_path)


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "RadiologyAI_train.csv"
    file.write_bytes("filename,label\na.png,cat\nb.png,Mönch\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"RadiologyAI_train.csv, line 3 is not UTF-8 .*byte 0xf6.*; save the CSV as"):
        read_layout(tmp_path)
    file.write_bytes("filename,label\na.png,cat\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"RadiologyAI_train.csv, line 1 is not UTF-8"):
        read_layout(tmp_path)


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('filename,label\n"a.png,cat\n' + "b.png,dog\n" * 20_000)
    with pytest.raises(ValueError, match=r"train.csv, line \d+ is no CSV: field larger than"):
        read_layout(tmp_path)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_that_are_none(tmp_path: Path, shares: tuple[float, float, float]) -> None:
    touch(tmp_path, "train/cat/1.png")
    with pytest.raises(ValueError, match="the shares of the splits must sum to 1"):
        read_layout(tmp_path, split_shares=shares)


def test_a_tree_has_no_column_to_group_by(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png")
    with pytest.raises(ValueError, match="group_column is patient, but .* has no CSV"):
        read_layout(tmp_path, "patient")
