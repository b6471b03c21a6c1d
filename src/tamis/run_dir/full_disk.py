"""A disk without room: files about a run are not worth the run."""

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
    cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    rank_zero_warn(f"{what} could not be written: {cause}. Training goes on; {then}")


@contextmanager
def tolerate_full_disk(what: str | Path, then: str = "this file is left out.") -> Iterator[None]:
    """Turn a full disk inside the block into one warning; every other error, a missing permission too, goes through.

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
