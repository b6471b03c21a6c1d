"""How files about a run are written: whole or not at all, and a disk without room does not end the training."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

#: No room on the disk, in the quota, under the limit on a file's size; and a disk that fails.
OUT_OF_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def is_out_of_room(error: BaseException | None) -> bool:
    """True for an error that says that the disk is full or broken, and not that the path or a permission is wrong."""
    return isinstance(error, OSError) and error.errno in OUT_OF_ROOM


def warn_out_of_room(what: str | Path, error: BaseException, then: str) -> None:
    """Say on rank 0 which file is concerned, why, and what becomes of it; training goes on."""
    rank_zero_warn(f"{what} could not be written: {_cause(error)}. Training goes on; {then}")


@contextmanager
def tolerate_full_disk(what: str | Path, then: str = "this file is left out.") -> Iterator[None]:
    """For files written during training: a full disk inside the block becomes a warning.

    Every other error, a missing permission too, goes through.

    Args:
        what: the file, for the warning.
        then: what becomes of it.
    """
    try:
        yield
    except OSError as error:
        if not is_out_of_room(error):
            raise
        warn_out_of_room(what, error, then)


@contextmanager
def name_the_file(what: str | Path, way_out: str) -> Iterator[None]:
    """For files that are what the command is for: a full disk names neither the file nor what to do, so this does.

    Args:
        what: the file, for the error.
        way_out: what can be done.
    """
    try:
        yield
    except OSError as error:
        if not is_out_of_room(error):
            raise
        raise OSError(error.errno, f"{what} could not be written: {_cause(error)}. {way_out}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, and the folders above it, so that a kill or a full disk leaves the old one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else a machine's end could leave the new name on an empty file
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def append_whole(path: Path, content: bytes) -> None:
    """Add lines at the file's end; if there is no room for all of them, none."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def _cause(error: BaseException) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
