"""Reading what torch.save wrote, without ever running code out of a file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

#: How torch names what it refuses to unpickle.
_REFUSED = re.compile(r"(?:GLOBAL|class|global|Unsupported operand) ([\w.]+)")


def read_torch_file(path: Path, way_out: str, safe: Sequence[type] = (), mapped: bool = False) -> Any:  # noqa: ANN401 - whatever it holds
    """What a file of torch.save holds, on the CPU: tensors and primitives, nothing else.

    Args:
        path: the file.
        way_out: what to do about a file that cannot be read, behind a semicolon.
        safe: further classes that may be in it.
        mapped: leave the tensors in the file until they are used; for files in torch's format since 1.6 only.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged, is no such file, or holds what could run code; naming the file.
    """
    try:
        with torch.serialization.safe_globals(list(safe)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}; {way_out}") from error
    except Exception as error:  # of bytes that are anything, torch's reader raises anything
        raise ValueError(f"{path} cannot be read: {_reason(path, error)}; {way_out}") from error


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "it is empty"
    refused = _REFUSED.search(str(error))
    if isinstance(error, pickle.UnpicklingError) and refused is not None and "." in refused[1]:
        return f"it holds {refused[1]}, which is no tensor and could run code; nothing of it was run"
    return "it is damaged, only a part, or was not written by torch.save"
