"""A run's directory: new or empty, unless the run goes on from a checkpoint in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CHECKPOINTS = "checkpoints"


def empty_directory(run_dir: Path) -> Path:
    """The directory, made if it is not there.

    Raises:
        SystemExit: if it holds a run; that is not overwritten.
    """
    refuse_used(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def put_aside(run_dir: Path) -> None:
    """Move what a run has left that was killed before its first checkpoint into ``before-<k>``: nothing is lost.

    Raises:
        SystemExit: if that run has left a model: it was finished.
    """
    if not _used(run_dir):
        return
    if (run_dir / "model").exists():
        raise SystemExit(
            f"tamis: {run_dir} holds the model of a finished run that wrote no checkpoints, so there is nothing to go "
            "on from. Choose another --run_dir."
        )
    found = [path for path in run_dir.iterdir() if not path.name.startswith("before-")]
    aside = next_free(run_dir, "before")
    for path in found:
        path.rename(aside / path.name)


def refuse_used(run_dir: Path) -> None:
    """Refuse a directory with anything of a run in it.

    Raises:
        SystemExit: naming the ways out.
    """
    if _used(run_dir):
        way_out = "Choose another --run_dir, or remove it"
        if any((run_dir / CHECKPOINTS).glob("*.ckpt")):
            way_out += "; or let the run in it go on: `--resume auto`"
        raise SystemExit(f"tamis: the run directory {run_dir} is not empty, and nothing is overwritten. {way_out}.")


def _used(run_dir: Path) -> bool:
    # TensorBoard's file is there before anything has run; a run that failed on its input may be tried again.
    left = ("events.out.tfevents", "before-")
    return run_dir.is_dir() and any(not path.name.startswith(left) for path in run_dir.iterdir())


def next_free(folder: Path, name: str) -> Path:
    """``folder/name-<k>`` with the smallest free k, made at once so that two runs never share it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _numbered(folder, name):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise RuntimeError("unreachable: there is a free number")


def newest_run(folder: Path, name: str) -> Path | None:
    """``folder/name-<k>`` with the largest k that has checkpoints; ``None`` if there is none."""
    newest = None
    for path in _numbered(folder, name):
        if not path.is_dir():
            return newest
        newest = path if any((path / CHECKPOINTS).glob("*.ckpt")) else newest
    return newest


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    number = 1
    while True:
        yield folder / f"{name}-{number}"
        number += 1
