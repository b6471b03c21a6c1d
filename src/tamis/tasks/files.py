"""Writes a generated data set as JSON lines."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bugs import demonstrate
from .generator import Task, TaskGenerator

NAMES = ("train.jsonl", "validation.jsonl", "test.jsonl", "demonstrations.jsonl")


@dataclass(frozen=True)
class TaskSummary:
    """What was written.

    Attributes:
        folder: Where to.
        tasks: Number of tasks by split.
        compositions: Number of different reference compositions by split.
        demonstrations: Number of demonstrations.
        changed: How many of them have a bug put in. Not all of these bugs are seen by the asserts.
    """

    folder: Path
    tasks: Mapping[str, int]
    compositions: Mapping[str, int]
    demonstrations: int
    changed: int


def write_tasks(
    folder: str | os.PathLike[str],
    train: int = 16_000,
    validation: int = 500,
    test: int = 1_000,
    demonstrations: int = 2_000,
    bug_rate: float = 0.5,
    seed: int = 0,
) -> TaskSummary:
    """Generates a data set and writes train, validation, test and demonstrations, one JSON object a line.

    Equal arguments give equal bytes. The demonstrations belong to the first training tasks, so the tasks after them
    have never been demonstrated.

    Args:
        folder: Where to write; made when missing.
        train: Number of training tasks.
        validation: Number of validation tasks.
        test: Number of test tasks.
        demonstrations: Number of demonstrations, at most ``train``.
        bug_rate: Share of demonstrations with a plausible bug, in 0..1.
        seed: The seed.

    Raises:
        FileExistsError: The folder has one of the files already.
        ValueError: A number or the rate is out of its range.
    """
    if not 0 <= demonstrations <= train:
        raise ValueError(f"demonstrations is {demonstrations}; it must be from 0 to the {train} training tasks.")
    folder = Path(folder)
    _refuse_to_overwrite(folder)
    splits = TaskGenerator(seed).generate(train, validation, test)
    demonstrated = splits.train[:demonstrations]
    rng = random.Random(f"tamis/{seed}/demonstrations")
    bodies = [demonstrate(task, rng, bug_rate) for task in demonstrated]
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    for split, members in tasks.items():
        _write(folder / f"{split}.jsonl", (task.row() for task in members))
    _write(folder / "demonstrations.jsonl", map(_demonstration, demonstrated, bodies))
    return TaskSummary(
        folder=folder,
        tasks={split: len(members) for split, members in tasks.items()},
        compositions={split: _count_compositions(members) for split, members in tasks.items()},
        demonstrations=len(bodies),
        changed=sum(task.canonical_solution != body for task, body in zip(demonstrated, bodies, strict=True)),
    )


def _refuse_to_overwrite(folder: Path) -> None:
    for name in NAMES:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} is there already; choose another folder, or remove the file first.")


def _demonstration(task: Task, body: str) -> dict[str, str]:
    return {"task_id": task.task_id, "prompt": task.prompt, "completion": body}


def _count_compositions(tasks: Sequence[Task]) -> int:
    return len({task.composition for task in tasks})


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Writes a whole file or none: under another name first, then renamed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
