"""Fetching official MedMNIST files, and telling whether a file is the official one."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
from pathlib import Path
from typing import IO
from urllib.request import Request, urlopen

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from .medmnist_sets import OfficialFile

ZENODO = "https://zenodo.org/records/10519652/files/{file}?download=1"
#: Silence after which a connection counts as lost.
TIMEOUT_SECONDS = 60
READ_BYTES = 1 << 20
#: Less is read in a second, which needs no bar.
LARGE_BYTES = 1 << 28


def download(official: OfficialFile, folder: Path, address: str = ZENODO) -> Path:
    """Fetch an official file and compare its MD5; nothing appears under its name before that.

    Own code, for torchvision's ``download_url`` writes under the final name, and has no timeout.

    Args:
        official: which.
        folder: where to; made if it is not there.
        address: with ``{file}`` for the file's name.

    Returns:
        The file.

    Raises:
        OSError: if it cannot be fetched or written.
        RuntimeError: if its MD5 is another; what was fetched is removed.
    """
    url, target = address.replace("{file}", official.name), folder / official.name
    rank_zero_info(f"downloading {url} to {target} (data: {official.facts.licence}, not for clinical use)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{official.name}-") as scratch:
            part = Path(scratch) / official.name
            found = _fetch(url, part)
            if found != official.md5:
                raise RuntimeError(
                    f"{url} has the MD5 {found}, but {official.name} is known by {official.md5}: the download broke "
                    f"off, or this is another file. It was removed; try again, or put the right file at {target}"
                )
            os.replace(part, target)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(
            f"cannot download {url} to {target}: {error}. Without a network, fetch the file elsewhere "
            f"(MD5 {official.md5}) and put it there, or give its path"
        ) from error
    return target


def compare_md5(file: Path, official: OfficialFile) -> None:
    """Warn of a file that looks like an official one but has another MD5; some take a minute."""
    with file.open("rb") as handle:
        found = _copy(handle, None, file.stat().st_size, file.name)
    if found != official.md5:
        rank_zero_warn(
            f"{file} is not the official {official.name}: its MD5 is {found}, not {official.md5}. Number and shape of "
            "its images are the official ones, so the names of its classes are taken to be so, too",
            stacklevel=2,
        )


def _fetch(url: str, part: Path) -> str:
    request = Request(url, headers={"User-Agent": "tamis"})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as handle:
        return _copy(response, handle, int(response.headers.get("Content-Length") or 0), part.name)


def _copy(source: IO[bytes], target: IO[bytes] | None, size: int, name: str) -> str:
    """Read to the end, and write if there is where to; the MD5 of what was read."""
    from rich.progress import Progress

    digest = hashlib.md5(usedforsecurity=False)
    quiet = os.environ.get("LOCAL_RANK", "0") != "0" or (target is None and size < LARGE_BYTES)
    with Progress(transient=True, disable=quiet) as progress:
        task = progress.add_task(name, total=size or None)
        while block := source.read(READ_BYTES):
            digest.update(block)
            if target is not None:
                target.write(block)
            progress.advance(task, len(block))
    return digest.hexdigest()
