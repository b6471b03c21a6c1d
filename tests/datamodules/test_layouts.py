"""Which images a folder holds, told by looking at folders as people have them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tamis.datamodules import layouts
from tamis.datamodules.image_csv import NO_SLICE
from tamis.datamodules.image_table import ImageTable
from tamis.datamodules.layouts import Layout, read_layout
from tamis.datamodules.phantoms import CLASSES

ROWS = [
    ("radiology_ai/CT/abd/normal/abd-normal000001.png", "abd-normal"),
    ("radiology_ai/MR/knee/acl_pathology/knee000002.png", "knee-acl_pathology"),
    ("radiology_ai/MR/mriabd/normal/abd000003.png", "mriabd-normal"),
    ("radiology_ai/US/gb/usn000004.png", "usabd-gb"),
]
NAMES = ["CT__abd__normal", "MR__knee__acl_pathology", "MR__abd__normal", "US__gb"]
SPLITS = ("train", "val", "test")


def write_csv(file: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("filename", "label")) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def touch(root: Path, *names: str) -> None:
    """Files without content: a layout is told by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def rows_of(table: ImageTable) -> list[tuple[str, str]]:
    return list(zip(table.files, table.labels, strict=True))


def all_rows(layout: Layout) -> list[tuple[str, str]]:
    return sorted(row for table in layout.tables.values() for row in rows_of(table))


# RadImageNet's CSVs


def test_official_csvs(tmp_path: Path) -> None:
    for split in SPLITS:
        write_csv(tmp_path / f"RadiologyAI_{split}.csv", ROWS)
    layout = read_layout(tmp_path)
    assert layout.kind == "RadImageNet's CSVs"
    assert list(layout.tables) == ["train", "val", "test"]
    assert not layout.notes
    train = layout.table("train")
    assert rows_of(train) == [(filename, name) for (filename, _), name in zip(ROWS, NAMES, strict=True)]
    assert (train.where(3), train.slices, train.groups) == ("RadiologyAI_train.csv, line 5", None, None)
    assert layout.description == f"{tmp_path}: RadImageNet's CSVs; 4 classes; images: train 4, val 4, test 4"


def test_every_phantom_row_gets_its_canonical_class(phantoms: Path) -> None:
    tables = read_layout(phantoms).tables
    assert {split: table.rows for split, table in tables.items()} == {"train": 30, "val": 15, "test": 15}
    assert set(tables["train"].labels) == {kind.folder.replace("/", "__") for kind in CLASSES}
    for table in tables.values():
        assert all("/".join(("radiology_ai", *label.split("__"), "")) in name for name, label in rows_of(table))


def test_a_missing_split_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "RadiologyAI_train.csv", ROWS)
    layout = read_layout(tmp_path)
    assert list(layout.tables) == ["train"]
    with pytest.raises(FileNotFoundError, match=r"RadiologyAI_val.csv does not exist, .* another val split"):
        layout.table("val")


def test_a_label_that_contradicts_its_folder_is_taken_and_told(tmp_path: Path) -> None:
    write_csv(tmp_path / "RadiologyAI_train.csv", [*ROWS, (ROWS[0][0], "abd-liver_lesion")])
    layout = read_layout(tmp_path)
    assert rows_of(layout.table("train"))[-1] == (ROWS[0][0], "CT__abd__liver_lesion")
    (note,) = layout.notes
    assert "the folder names another class than the label in 1 rows" in note
    assert "line 6: radiology_ai/CT/abd/normal/abd-normal000001.png as abd-liver_lesion" in note


def test_labels_of_the_users_own_stay_as_they_are(tmp_path: Path) -> None:
    """``normal`` is no class of RadImageNet's, even if the folder is; ``abnormal`` could not be."""
    rows = [(ROWS[0][0], "normal"), (ROWS[1][0], "abnormal")]
    write_csv(tmp_path / "RadiologyAI_train.csv", rows)
    assert rows_of(read_layout(tmp_path).table("train")) == rows


def test_bare_pathologies_take_their_anatomy_from_the_folder(tmp_path: Path) -> None:
    rows = [(name, label.rpartition("-")[2]) for name, label in ROWS]
    write_csv(tmp_path / "RadiologyAI_train.csv", rows)
    assert read_layout(tmp_path).table("train").labels == NAMES


def test_folders_that_name_no_class_contradict_nothing(tmp_path: Path) -> None:
    write_csv(tmp_path / "RadiologyAI_train.csv", [("images/1.png", "usabd-gb")])
    layout = read_layout(tmp_path)
    assert (layout.table("train").labels, layout.notes) == (["US__gb"], [])


def test_windows_made_csvs(tmp_path: Path) -> None:
    lines = ["\ufefffilename , label", "radiology_ai\\US\\gb\\usn1.png,usabd-gb ", "", " .\\cat//1.png,cat"]
    (tmp_path / "RadiologyAI_train.csv").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    table = read_layout(tmp_path).table("train")
    assert rows_of(table) == [("radiology_ai/US/gb/usn1.png", "US__gb"), ("cat/1.png", "cat")]
    assert table.lines == [2, 4]


def test_whole_sets_are_told_apart_by_their_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "WHOLE_SET", 100)
    ends = []
    for train, val, test in ((75, 10, 15), (89, 4, 7), (50, 25, 25), (60, 10, 10)):
        for split, rows in zip(SPLITS, (train, val, test), strict=True):
            write_csv(tmp_path / f"RadiologyAI_{split}.csv", [ROWS[0]] * rows)
        ends.append(read_layout(tmp_path).description.rpartition("; ")[2])
    assert ends == [
        "75.0% to train on, like official (by patient) of the published splits",
        "89.0% to train on, like refined (drawn anew) of the published splits",
        "50.0% to train on, like neither of the published splits",
        "images: train 60, val 10, test 10",
    ]


# Other CSVs


@pytest.mark.parametrize("names", [("train.csv", "val.csv", "test.csv"), ("Training.CSV", "valid.csv", "testing.csv")])
def test_a_csv_for_each_split(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, row in zip(names, ROWS, strict=False):
        write_csv(tmp_path / name, [row])
    write_csv(tmp_path / "classes.csv", [("a", 1)], ("name", "count"))
    layout = read_layout(tmp_path)
    assert layout.kind == "a CSV for each split"
    assert {split: table.labels for split, table in layout.tables.items()} == dict(
        zip(SPLITS, [[name] for name in NAMES], strict=False)
    )


def test_one_csv_with_a_split_column(tmp_path: Path) -> None:
    rows = [(f"{number}.png", "ab"[number % 2], split) for number, split in enumerate(["train", "Valid", "test"] * 2)]
    write_csv(tmp_path / "all.csv", rows, ("filename", "label", "split"))
    layout = read_layout(tmp_path)
    assert layout.kind == "one CSV, all.csv, with its split"
    assert {split: table.files for split, table in layout.tables.items()} == {
        "train": ["0.png", "3.png"],
        "val": ["1.png", "4.png"],
        "test": ["2.png", "5.png"],
    }
    assert layout.table("val").where(1) == "all.csv, line 6"


@pytest.mark.parametrize("column", ["PatientID", "patient_id", "Patient", "subject id", "SUBJECT"])
def test_one_csv_is_split_by_patient(tmp_path: Path, column: str) -> None:
    rows = [(f"{number}.png", "ab"[number % 2], f"p{number // 4}") for number in range(160)]
    write_csv(tmp_path / "all.csv", rows, ("filename", "label", column))
    layout = read_layout(tmp_path)
    assert layout.kind == "one CSV, all.csv, split here"
    assert not layout.notes
    assert {split: table.rows for split, table in layout.tables.items()} == {"train": 120, "val": 16, "test": 24}
    patients = [set(table.groups or []) for table in layout.tables.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 40
    assert all_rows(layout) == sorted((name, label) for name, label, _ in rows)


def test_the_column_to_group_by_can_be_named(tmp_path: Path) -> None:
    rows = [(f"{number}.png", "a", f"p{number}", f"h{number % 4}") for number in range(40)]
    write_csv(tmp_path / "all.csv", rows, ("filename", "label", "patient", "hospital"))
    layout = read_layout(tmp_path, "hospital", (0.5, 0.25, 0.25))
    assert {split: len(set(table.groups or [])) for split, table in layout.tables.items()} == dict(
        zip(SPLITS, (2, 1, 1), strict=True)
    )
    with pytest.raises(ValueError, match="has no column clinic to group by, found: filename, label, patient, hospital"):
        read_layout(tmp_path, "clinic")


def test_without_patients_rows_are_split_one_by_one_with_a_warning(tmp_path: Path) -> None:
    write_csv(tmp_path / "all.csv", [(f"{number}.png", "ab"[number % 2]) for number in range(80)])
    layout = read_layout(tmp_path, split_shares=(0.5, 0.5, 0))
    assert {split: table.rows for split, table in layout.tables.items()} == {"train": 40, "val": 40}
    assert {table.labels.count("a") for table in layout.tables.values()} == {20}
    (note,) = layout.notes
    assert note.startswith("all.csv: nothing says which images are one patient's")
    assert all_rows(read_layout(tmp_path, split_seed=1)) == all_rows(layout)
    assert read_layout(tmp_path, split_seed=1).tables != read_layout(tmp_path).tables == read_layout(tmp_path).tables


def test_patients_in_two_given_splits_are_told(tmp_path: Path) -> None:
    for split, patients in {"train": "abc", "val": "cd", "test": "ce"}.items():
        rows = [(f"{split}{patient}.png", "x", patient) for patient in patients]
        write_csv(tmp_path / f"{split}.csv", rows, ("filename", "label", "patient"))
    assert read_layout(tmp_path).notes == [
        "train.csv: 1 patients are in train and in val, such as c",
        "train.csv: 1 patients are in train and in test, such as c",
        "val.csv: 1 patients are in val and in test, such as c",
    ]


def test_patients_in_two_splits_of_one_csv_are_told(tmp_path: Path) -> None:
    rows = [("1.png", "x", "p", "train"), ("2.png", "x", "p", "test")]
    write_csv(tmp_path / "all.csv", rows, ("filename", "label", "patient", "split"))
    assert read_layout(tmp_path).notes == ["all.csv: 1 patients are in train and in test, such as p"]


def test_slices_of_volumes(tmp_path: Path) -> None:
    rows = [("a.nii.gz", "x", "0"), ("a.nii.gz", "y", "17"), ("b.dcm", "y", "")]
    write_csv(tmp_path / "train.csv", rows, ("filename", "label", "slice"))
    assert read_layout(tmp_path).table("train").slices == [0, 17, NO_SLICE]
    write_csv(tmp_path / "train.csv", [("a.png", "x", "")], ("filename", "label", "slice"))
    assert read_layout(tmp_path).table("train").slices is None


# Trees


def test_the_refined_tree_also_in_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [
        f"{split}/{name}/1.png" for split in SPLITS for name in ("CT__abd__normal", "US__gb", "MR__mriabd__normal")
    ]
    touch(tmp_path / "output" / "rRadImagenet1L", *names)
    inner = read_layout(tmp_path / "output" / "rRadImagenet1L")
    assert inner.kind == "RadImageNet's classes in folders"
    assert inner.table("val").files == [
        "val/CT__abd__normal/1.png",
        "val/MR__mriabd__normal/1.png",
        "val/US__gb/1.png",
    ]
    assert inner.table("val").labels == ["CT__abd__normal", "MR__abd__normal", "US__gb"]
    assert inner.table("val").where(0) == "val"
    outer = read_layout(tmp_path)
    assert outer.table("test").files == [f"output/rRadImagenet1L/{name}" for name in inner.table("test").files]
    assert not outer.notes


@pytest.mark.parametrize(
    ("splits", "known"),
    [
        (("train", "valid"), ["train", "val"]),
        (("Training", "Testing"), ["train", "test"]),
        (("train", "validation", "test"), ["train", "val", "test"]),
    ],
)
def test_folders_of_splits_and_classes_of_any_name(tmp_path: Path, splits: tuple[str, ...], known: list[str]) -> None:
    for split in splits:
        touch(tmp_path / split, "dog/b.JPG", "dog/deep/er/a.png", "cat/1.png", "cat/.hidden.png", ".trash/1.png")
    layout = read_layout(tmp_path)
    assert layout.kind == "folders of splits"
    assert list(layout.tables) == known
    assert rows_of(layout.table("train")) == [
        (f"{splits[0]}/cat/1.png", "cat"),
        (f"{splits[0]}/dog/b.JPG", "dog"),
        (f"{splits[0]}/dog/deep/er/a.png", "dog"),
    ]
    assert not layout.notes


def test_what_is_no_image_is_skipped_and_told(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png", "train/cat/Thumbs.db", "train/README", "train/stray.png", "train/empty/x.txt")
    touch(tmp_path, "train/volume/a.nii.gz", "masks/1.png")
    layout = read_layout(tmp_path)
    assert layout.table("train").labels == ["cat", "volume"]
    train = tmp_path / "train"
    assert layout.notes == [
        f"{train / 'empty'} holds no image; there is no such class",
        f"{train}: 1 images outside the folders of classes are skipped, such as stray.png",
        f"{train}: 3 files that are no images are skipped, such as README",
        f"{tmp_path}: skipped beside the splits: masks",
    ]


def test_the_bare_official_tree_is_split_here(tmp_path: Path) -> None:
    folders = ("CT/abd/normal", "MR/mriabd/normal", "US/gb", "CT/abd/new_pathology")
    touch(tmp_path / "radiology_ai", *(f"{folder}/{number}.png" for folder in folders for number in range(10)))
    layout = read_layout(tmp_path)
    assert layout.kind == "the tree radiology_ai, split here"
    assert "neighbouring slices of a patient" in layout.notes[0]
    assert {split: table.rows for split, table in layout.tables.items()} == {"train": 30, "val": 4, "test": 6}
    names = ["CT__abd__normal", "MR__abd__normal", "US__gb", "CT__abd__new_pathology"]
    assert all_rows(layout) == sorted(
        (f"radiology_ai/{folder}/{number}.png", name)
        for folder, name in zip(folders, names, strict=True)
        for number in range(10)
    )
    inside = read_layout(tmp_path / "radiology_ai")
    assert [f"radiology_ai/{name}" for name in inside.table("val").files] == layout.table("val").files


def test_one_modality_of_the_official_tree(tmp_path: Path) -> None:
    names = [f"CT/{anatomy}/normal/{number}.png" for anatomy in ("abd", "lung") for number in range(10)]
    touch(tmp_path / "radiology_ai", *names)
    layout = read_layout(tmp_path)
    assert {label for _, label in all_rows(layout)} == {"CT__abd__normal", "CT__lung__normal"}


def test_splits_without_one_to_train_on(tmp_path: Path) -> None:
    touch(tmp_path, "val/cat/1.png", "test/cat/2.png", "test/dog/3.png")
    layout = read_layout(tmp_path)
    assert {split: table.labels for split, table in layout.tables.items()} == {"val": ["cat"], "test": ["cat", "dog"]}


def test_folders_of_classes_without_splits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{number:02d}.png" for name in ("AbdomenCT", "test", "HeadCT") for number in range(20)))
    layout = read_layout(tmp_path)
    assert layout.kind == "folders of classes, split here"
    assert {split: table.rows for split, table in layout.tables.items()} == {"train": 45, "val": 6, "test": 9}
    assert set(layout.table("test").labels) == {"AbdomenCT", "test", "HeadCT"}


def test_a_csv_that_names_no_images_does_not_hide_a_tree(tmp_path: Path) -> None:
    write_csv(tmp_path / "counts.csv", [("cat", 1)], ("name", "count"))
    (tmp_path / "size.csv").write_bytes("Größe\n1\n".encode("latin-1"))
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png")
    assert read_layout(tmp_path).kind == "folders of splits"


def test_csvs_go_before_trees(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png")
    write_csv(tmp_path / "all.csv", [("train/cat/1.png", "tabby", "train")], ("filename", "label", "split"))
    assert read_layout(tmp_path).table("train").labels == ["tabby"]
