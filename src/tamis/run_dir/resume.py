"""Which checkpoint a run goes on from, and what it says of the run that wrote it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..torch_files import read_torch_file

#: The key of a checkpoint under which lies what Lightning does not keep, see `tamis.callbacks.RunCheckpoints`.
RUN_STATE = "tamis"
_WAY_OUT = "give a .ckpt that a run wrote into its directory"


class Found(NamedTuple):
    """A checkpoint.

    Args:
        path: where it is.
        state: what `RunCheckpoints` has added, empty for one that it did not write.
        step: the last number of the loggers' x-axis that it knows of.
    """

    path: Path
    state: Mapping[str, Any]
    step: int


def read_checkpoint(path: Path) -> Found:
    """Look into a checkpoint without loading its tensors.

    Raises:
        ValueError: if it is none, is not whole, or holds more than tensors and primitives.
    """
    file = path / "meta.pt" if path.is_dir() else path  # as Lightning writes sharded ones
    if not file.is_file():
        raise ValueError(f"{path} is a folder and no checkpoint; {_WAY_OUT}")
    content = read_torch_file(file, _WAY_OUT, mapped=zipfile.is_zipfile(file))
    if not isinstance(content, dict) or "loops" not in content:
        names = ", ".join(map(str, list(content)[:3])) if isinstance(content, dict) else ""
        held = f"the keys {names}" if names else f"a {type(content).__name__}"
        raise ValueError(
            f"{path} is no checkpoint of a run, it holds {held}; "
            f"{_WAY_OUT} (weights alone go to an option of the model, such as --model.weights)"
        )
    # A policy counts its rows from 1, any other module from 0.
    step = content["iteration"] if "iteration" in content else content.get("global_step", 0) - 1
    return Found(path, content.get(RUN_STATE, {}), int(step))


def newest_checkpoint(folder: Path) -> tuple[Found | None, list[str]]:
    """The newest checkpoint in a folder that is whole, and what is wrong with those that are newer.

    Args:
        folder: ``checkpoints`` of a run directory.
    """
    wrong: list[str] = []
    for path in sorted(folder.glob("*.ckpt"), key=_age, reverse=True):
        try:
            return read_checkpoint(path), wrong
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    return None, wrong


def _age(path: Path) -> tuple[int, float]:
    """By iteration, where the name tells it; by time of writing otherwise."""
    _, _, number = path.stem.partition("iteration=")
    return (int(number) if number.isdigit() else -1, path.stat().st_mtime)
