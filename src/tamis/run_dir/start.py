"""Where a command's run begins: in a new directory, or behind a checkpoint, or both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from .directory import CHECKPOINTS, empty_directory, newest_run, next_free, put_aside, refuse_used
from .resume import Found, newest_checkpoint, read_checkpoint

RUNS = Path("runs")
AUTO = "auto"
#: As a --ckpt_path, Lightning looks for a file by itself.
LIGHTNINGS_WORDS = frozenset({"best", "last", "hpc"})


class Start(NamedTuple):
    """Where a run begins.

    Args:
        run_dir: its directory, made.
        checkpoint: what it goes on from; ``None`` begins at the beginning.
        keep_until: the last logged step that stays in the directory's files; ``None`` where it is new.
    """

    run_dir: Path
    checkpoint: Found | None
    keep_until: int | None


def checkpoint_of(resume: str | None, ckpt_path: str | None, run_dir: str | None, name: str) -> Found | None:
    """The checkpoint that the options ask for, said aloud where ``auto`` chose it.

    Args:
        resume: ``auto``, or a path.
        ckpt_path: Lightning's option.
        run_dir: where ``auto`` looks.
        name: of the model, below whose newest run ``auto`` looks where no directory is given.

    Raises:
        ValueError: for both options at once, or a file that is no whole checkpoint.
    """
    if resume is not None and ckpt_path is not None:
        raise ValueError(f"--resume {resume} and --ckpt_path {ckpt_path} both name a checkpoint; give one of them")
    if resume == AUTO:
        return _newest(Path(run_dir) if run_dir is not None else newest_run(RUNS, name), name)
    path = resume if resume is not None else ckpt_path
    if path is None or "://" in path:
        return None
    if path in LIGHTNINGS_WORDS:
        raise ValueError(
            f"--ckpt_path {path} is Lightning's word for a file of its own callback, which no command of tamis leaves "
            "behind; give a path, or `--resume auto` for the newest checkpoint of a run"
        )
    if not Path(path).exists():
        option = "--ckpt_path" if resume is None else "--resume"
        raise ValueError(
            f"{option} {path}: there is no such checkpoint; give its path, or `--resume auto` for the newest"
        )
    return read_checkpoint(Path(path))


def start_of(checkpoint: Found | None, resume: str | None, run_dir: str | None, name: str) -> Start:
    """The run's directory: new, or the checkpoint's own where the run goes on in it.

    Raises:
        SystemExit: for a directory that holds a run which this one does not go on with.
    """
    if resume == AUTO and checkpoint is not None and run_dir is None:
        run_dir = str(checkpoint.path.parent.parent)
    if checkpoint is not None and run_dir is not None and _lies_in(checkpoint.path, Path(run_dir)):
        return Start(Path(run_dir), checkpoint, checkpoint.step)
    if resume == AUTO and run_dir is not None:  # killed before its first checkpoint: the same command begins again
        put_aside(Path(run_dir))
    return Start(empty_directory(Path(run_dir)) if run_dir is not None else next_free(RUNS, name), checkpoint, None)


def check_run_dir(checkpoint: Found | None, resume: str | None, run_dir: str | None) -> None:
    """Refuse a directory that holds another run before anything is built for this one.

    Raises:
        SystemExit: naming it.
    """
    if run_dir is not None and resume != AUTO and not (checkpoint and _lies_in(checkpoint.path, Path(run_dir))):
        refuse_used(Path(run_dir))


def option_in(args: Sequence[str], name: str) -> str | None:
    """The value of an option as it stands in a command line, before anything is parsed."""
    for number, argument in enumerate(args):
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
        if argument == f"--{name}" and number + 1 < len(args):
            return args[number + 1]
    return None


def _newest(run_dir: Path | None, name: str) -> Found | None:
    if run_dir is None:
        rank_zero_info(f"--resume auto: no run of {name} in {RUNS} has a checkpoint; this one begins at the beginning")
        return None
    found, wrong = newest_checkpoint(run_dir / CHECKPOINTS)
    for text in wrong:
        rank_zero_info(f"--resume auto: left aside, {text}")
    if found is None:
        rank_zero_info(f"--resume auto: {run_dir} has no whole checkpoint; the run begins at the beginning")
    else:
        rank_zero_info(f"--resume auto: going on from {found.path}")
    return found


def _lies_in(checkpoint: Path, run_dir: Path) -> bool:
    return checkpoint.resolve().is_relative_to((run_dir / CHECKPOINTS).resolve())
