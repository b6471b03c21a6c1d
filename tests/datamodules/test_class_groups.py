"""Which modality and anatomy a class belongs to."""

from __future__ import annotations

from pathlib import Path

from tamis.datamodules import MedMNIST, Phantoms
from tamis.datamodules.phantoms import CLASSES
from tamis.datamodules.radimagenet import CsvRows, group_classes

FILES = {
    "abd-normal": ["radiology_ai/CT/abd/normal/abd-normal039513.png"],
    "mriabd-normal": ["radiology_ai/MR/abd/normal/abd000001.png"],
    "usabd-gb": ["radiology_ai/US/gb/usn309850.png"],
    "usthyroid-thyroid": ["radiology_ai/US/thyroid/usn418235.png"],
}


def groups(files: dict[str, list[str]]) -> dict[str, list[str]]:
    rows = [(name, label) for label, names in files.items() for name in names]
    return group_classes(
        CsvRows(Path("x.csv"), [name for name, _ in rows], [label for _, label in rows]), sorted(files)
    )


def test_modality_is_the_folder_and_anatomy_the_beginning_of_the_label() -> None:
    assert groups(FILES) == {
        "modality": ["CT", "MR", "US", "US"],
        "anatomy": ["abd", "mriabd", "usabd", "usthyroid"],
    }


def test_folders_may_be_flat() -> None:
    flat = {"a-x": ["radiology_ai/CT/1.png"], "b-y": ["radiology_ai/MR/2.png"]}
    assert groups(flat) == {"modality": ["CT", "MR"], "anatomy": ["a", "b"]}


def test_a_class_of_two_modalities_has_both() -> None:
    both = {**FILES, "abd-normal": [*FILES["abd-normal"], "radiology_ai/MR/abd/normal/x.png"]}
    assert groups(both)["modality"] == ["CT+MR", "MR", "US", "US"]


def test_other_layouts_have_no_groups() -> None:
    assert groups({"cat": ["images/cat/1.png"], "dog": ["1.png", "radiology_ai/2.png"]}) == {}
    assert groups({"abd-a": ["images/1.png"], "lung-b": ["images/2.png"]}) == {"anatomy": ["abd", "lung"]}


def test_phantoms_have_radimagenets_groups(tmp_path: Path) -> None:
    data = Phantoms(str(tmp_path / "set"), 15, 15, 15, phantom_size=16)
    data.prepare_data()
    folders = {kind.label: kind.folder.split("/")[0] for kind in CLASSES}
    assert data.class_groups["modality"] == [folders[name] for name in data.class_names]
    assert set(data.class_groups["anatomy"]) == {"abd", "lung", "brain", "usabd", "usthyroid"}


def test_sets_without_names_have_none() -> None:
    assert MedMNIST("organamnist.npz").class_groups == {}
