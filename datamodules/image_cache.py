"""Decoded images on disk: one array of bytes a split, written once and mapped into every process that reads it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from .image_files import FileImages
from .image_sources import ImageSource, SquareCrop

#: Raised whenever the same files and options make other bytes.
CACHE_VERSION = 1
ARRAY_FILE, ABOUT_FILE = "images.npy", "about.json"
#: Seconds without a write after which a maker counts as dead.
ABANDONED = 3600
#: Images that are decoded before they are written: some MB at the published size.
CHUNK = 256


class MappedImages(ImageSource):
    """Images in a ``.npy`` file, mapped into memory: its pages are shared by all processes that read it.

    Args:
        file: an array ``[N, C, S, S]`` uint8.
        square: what has brought the images to their size.
    """

    def __init__(self, file: Path, square: SquareCrop) -> None:
        self.file, self.square = file, square
        self._images = np.load(file, mmap_mode="r", allow_pickle=False)

    def __reduce__(self) -> tuple[type[MappedImages], tuple[Path, SquareCrop]]:
        """By name: a pickled map would carry all images along to processes that are not forked."""
        return MappedImages, (self.file, self.square)

    def __len__(self) -> int:
        """N."""
        return len(self._images)

    def read(self, index: int) -> Tensor:
        """``[C, S, S]`` uint8, a copy: the file cannot be written through it."""
        return torch.from_numpy(np.array(self._images[index]))

    def read_batch(self, indices: Sequence[int], square: SquareCrop) -> Tensor:
        """``[B, C, S, S]`` uint8, copied in one go.

        Raises:
            ValueError: for another size than the cache has: what it holds cannot be resized as the files could.
        """
        if square != self.square:
            raise ValueError(f"{self.file} holds images of {self.square}, not of {square}")
        return torch.from_numpy(self._images[np.asarray(indices, dtype=np.int64)])


def cache_key(hashes: Sequence[str], files: FileImages, square: SquareCrop) -> str:
    """What the cached bytes are a function of, as 20 hexadecimal digits.

    Args:
        hashes: of each file's content, in the order of the images.
        files: the images.
        square: what brings them to one size.
    """
    slices = files.table.slices
    options = [CACHE_VERSION, files.color, files.intensity_range, square.resize, square.size, slices]
    digest = hashlib.sha256(json.dumps(options).encode())
    for file_hash in hashes:
        digest.update(file_hash.encode() + b"\n")
    return digest.hexdigest()[:20]


def cached_images(
    files: FileImages, square: SquareCrop, hashes: Sequence[str], folder: Path, name: str, threads: int = 1
) -> MappedImages:
    """The images at one size from the cache, which is made first if it is not there.

    Args:
        files: the images.
        square: what brings them to one size.
        hashes: of each file's content; other content is another cache.
        folder: of all caches.
        name: of the split, for people who look into the folder.
        threads: that decode.

    Raises:
        OSError: if the disk has too little room, or the folder cannot be written.
        RuntimeError: naming an image that cannot be read.
    """
    cache = folder / f"{name}-{square.size}px-{cache_key(hashes, files, square)}"
    if not (cache / ARRAY_FILE).is_file():
        _make(files, square, cache, threads)
    return MappedImages(cache / ARRAY_FILE, square)


def _make(files: FileImages, square: SquareCrop, cache: Path, threads: int) -> None:
    """Write beside the cache and rename: what is there is whole, and of two makers at once one wins."""
    _sweep(cache)
    channels = 1 if files.color == "grey" else 3
    shape = (len(files), channels, square.size, square.size)
    make_room(cache.parent, int(np.prod(shape)))
    rank_zero_info(f"decoding {len(files)} images once into {cache} ({np.prod(shape) / 1e6:,.1f} MB)")
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f".{cache.name}-") as scratch:
        part = Path(scratch) / "part"
        part.mkdir()
        images = np.lib.format.open_memmap(part / ARRAY_FILE, mode="w+", dtype=np.uint8, shape=shape)
        _decode(files, square, images, threads)
        images.flush()
        about = {"version": CACHE_VERSION, "source": files.table.source, "images": len(files), "square": square.size}
        (part / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")
        try:
            part.rename(cache)
        except OSError:
            if not (cache / ARRAY_FILE).is_file():
                raise


def _decode(files: FileImages, square: SquareCrop, images: NDArray[np.uint8], threads: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    def write(index: int) -> None:
        images[index] = square(files.read(index)).numpy()

    console = Console(stderr=True)
    quiet = not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0"
    with ThreadPoolExecutor(threads) as pool, Progress(console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("caching images", total=len(files))
        for start in range(0, len(files), CHUNK):
            for _ in pool.map(write, range(start, min(start + CHUNK, len(files)))):
                progress.advance(task)


def _sweep(cache: Path) -> None:
    """Take away what makers that were killed have left."""
    for part in cache.parent.glob(f".{cache.name}-*/part/{ARRAY_FILE}"):
        if time.time() - part.stat().st_mtime > ABANDONED:
            shutil.rmtree(part.parent.parent, ignore_errors=True)


def make_room(folder: Path, size: int) -> None:
    """Make the cache's folder.

    Raises:
        OSError: if that cannot be, or its disk has not ``size`` bytes free.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the cache's folder {folder}: {error}; name another by cache_dir") from error
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"the cache needs {size / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free; "
            "name a larger disk by cache_dir, or set cache to false"
        )
