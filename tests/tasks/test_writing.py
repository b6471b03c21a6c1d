"""The files of a data set."""

import json
from pathlib import Path

import pytest

from tamis.tasks import write_tasks

NAMES = ["demonstrations.jsonl", "test.jsonl", "train.jsonl", "validation.jsonl"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder: Path, seed: int = 0) -> dict[str, bytes]:
    write_tasks(folder, train=60, validation=10, test=20, demonstrations=30, seed=seed)
    return contents(folder)


def test_files_and_summary(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tasks"
    summary = write_tasks(folder, train=60, validation=10, test=20, demonstrations=30, seed=0)
    assert list(contents(folder)) == NAMES
    train, demonstrations = rows(folder / "train.jsonl"), rows(folder / "demonstrations.jsonl")
    assert summary.folder == folder
    assert summary.tasks == {"train": 60, "validation": 10, "test": 20}
    assert len(rows(folder / "test.jsonl")) == 20
    assert summary.compositions["train"] == len({row["composition"] for row in train})
    assert [row["prompt"] for row in demonstrations] == [row["prompt"] for row in train[:30]]
    assert list(demonstrations[0]) == ["task_id", "prompt", "completion"]
    changed = [
        row["canonical_solution"] != shown["completion"] for row, shown in zip(train, demonstrations, strict=False)
    ]
    assert summary.changed == sum(changed) > 5
    assert summary.demonstrations == 30


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    assert write(tmp_path / "second") == first
    other = write(tmp_path / "other", seed=1)
    assert all(other[name] != first[name] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=name):
        write(tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_more_demonstrations_than_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demonstrations is 11"):
        write_tasks(tmp_path, train=10, validation=0, test=0, demonstrations=11)
    assert contents(tmp_path) == {}
