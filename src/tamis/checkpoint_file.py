"""A look at the file behind ``--ckpt_path`` before anything is built for it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from .torch_files import read_torch_file

#: Words that Lightning finds a file for.
WORDS = frozenset({"best", "last", "hpc"})
_WAY_OUT = "give a .ckpt that a run wrote into its directory by --ckpt_path"


def check_checkpoint(ckpt_path: str) -> None:
    """Refuse a file that is no whole checkpoint of a run. Its tensors are mapped, not read.

    Args:
        ckpt_path: a file; one of Lightning's words and addresses such as ``s3://...`` are left to Lightning.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for one that cannot be read, would run code, or holds something else.
    """
    if ckpt_path in WORDS or "://" in ckpt_path:
        return
    path = Path(ckpt_path)
    if path.is_dir() and not (path / "meta.pt").is_file():  # sharded checkpoints are folders
        raise FileNotFoundError(f"{path} is a folder and no checkpoint; {_WAY_OUT}")
    if path.is_dir():
        return
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; {_WAY_OUT}")
    content = read_torch_file(path, _WAY_OUT, mapped=zipfile.is_zipfile(path))
    if not isinstance(content, dict) or not {"pytorch-lightning_version", "state_dict"} <= content.keys():
        held = (
            f"the keys {', '.join(map(str, list(content)[:4]))}"
            if isinstance(content, dict)
            else type(content).__name__
        )
        weights = isinstance(content, dict) and any(isinstance(value, torch.Tensor) for value in content.values())
        hint = " (weights alone go to an option of the model, such as --model.weights)" if weights else ""
        raise ValueError(f"{path} is no checkpoint of a run, it holds {held}; {_WAY_OUT}{hint}")
