"""Which modality and anatomy a class belongs to."""

from __future__ import annotations

from pathlib import Path

from tamis.datamodules import MedMNIST, Phantoms


def test_phantoms_have_radimagenets_groups(tmp_path: Path) -> None:
    data = Phantoms(str(tmp_path / "set"), 15, 15, 15, phantom_size=16)
    data.prepare_data()
    assert data.class_groups["modality"] == [name[:2] for name in data.class_names]
    assert set(data.class_groups["anatomy"]) == {"abd", "lung", "brain", "usabd", "usthyroid"}
    assert set(data.class_groups) == {"modality", "anatomy"}


def test_sets_without_names_have_none() -> None:
    assert MedMNIST("organamnist.npz").class_groups == {}
