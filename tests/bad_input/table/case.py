"""What a case of bad input is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

Make = Callable[[Path, Path], object]


def nothing(here: Path, good: Path) -> None:
    """The command alone is what is wrong."""


class BadInput(NamedTuple):
    """Something wrong that a user gives, and what is said of it.

    Args:
        wrong: what is wrong; the name of the test.
        command: the first word names a good command of `COMMANDS`, the others are added to it. ``{here}`` is the folder
            of the case, ``{good}`` that of the good things.
        says: what the message must hold: the file and line or the key, the value, the way out.
        make: puts the bad thing into the folder of the case.
        again: the same command is run a second time into the same run directory, which must not be in its way.
    """

    wrong: str
    command: str
    says: tuple[str, ...]
    make: Make = nothing
    again: bool = False


_QUIET = "--trainer.accelerator=cpu --trainer.enable_progress_bar=false --trainer.enable_model_summary=false "
_QUIET += "--trainer.max_epochs=1 --data.batch_size=4 "
_MODEL = "--model.model_name_or_path={good}/model "
_IMAGES = "fit --model=ImageClassifier --model.backbone=test_resnet "
_POLICY = f"--model=CodePolicy {_MODEL} --model.max_new_tokens=4 --data=CodeTasks {_QUIET}"
#: Good commands: each trains, in seconds, if nothing is added.
COMMANDS = {
    "nothing": "",
    "sft": f"fit --model=SupervisedFineTuning {_MODEL} --data=Instructions --data.train={{good}}/demos.jsonl {_QUIET}",
    "pairs": f"fit --model=RewardModel {_MODEL} --data=Preferences --data.path={{good}}/pairs.jsonl {_QUIET}",
    "dpo": f"fit --model=PreferenceOptimization {_MODEL} --data=Preferences --data.path={{good}}/pairs.jsonl {_QUIET}",
    "policy": f"fit {_POLICY} --model.num_samples=2 --model.max_iterations=1 --update=PPOUpdate "
    "--model.reward=LearnedReward --model.reward.model_name_or_path={good}/reward --data.train={good}/tasks.jsonl[:8]",
    "pass_at_k": f"test {_POLICY} --data.test={{good}}/tasks.jsonl[:4]",
    "npz": f"{_IMAGES} --data=MedMNIST --data.path={{good}}/set.npz {_QUIET}",
    "folder": f"{_IMAGES} --data=RadImageNet --data.root={{good}}/phantoms --data.image_size=32 {_QUIET}",
    "masks": "fit --model=NoiseMaskPretraining --model.backbone=test_resnet --model.policy_backbone=test_resnet "
    f"--model.grid=4 --update=ReinforceUpdate --data=MedMNIST --data.path={{good}}/set.npz {_QUIET}",
}


def file(name: str, content: str | bytes) -> Make:
    """A file of that content."""

    def make(here: Path, good: Path) -> None:
        (here / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def rows(*values: Any) -> Make:
    """``rows.jsonl`` with these rows."""
    return file("rows.jsonl", "".join(json.dumps(value) + "\n" for value in values))


def cut(source: str, name: str, share: float = 0.5) -> Make:
    """The beginning of a good file."""

    def make(here: Path, good: Path) -> None:
        content = (good / source).read_bytes()
        (here / name).write_bytes(content[: int(len(content) * share)])

    return make


def changed(source: str, change: Callable[[Path], object]) -> Make:
    """A copy of a good folder, ``{here}/copy``, with something changed in it."""

    def make(here: Path, good: Path) -> None:
        shutil.copytree(good / source, here / "copy", ignore=shutil.ignore_patterns(".tamis"))
        change(here / "copy")

    return make


def saved(name: str, content: Callable[[Path], Any]) -> Make:
    """What torch.save writes."""
    return lambda here, good: torch.save(content(good), here / name)


class RunsCode:
    """Unpickling an instance makes a file.

    Args:
        marker: the file.
    """

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)
