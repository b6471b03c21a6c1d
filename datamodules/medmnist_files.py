"""Arrays in npz files: read whole, or extracted to be mapped into memory. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from .image_cache import make_room
from .image_sources import ImageSource, SquareCrop

COPY_BYTES = 1 << 20


class ArrayHeader(NamedTuple):
    """What an array's first bytes say of it.

    Args:
        shape: of the array.
        dtype: of its elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def read_keys(npz: Path) -> list[str]:
    """Names of the arrays of an npz.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz.
    """
    if not npz.is_file():
        raise FileNotFoundError(
            f"{npz} does not exist; give the npz of a MedMNIST set, such as organamnist.npz, or the name of an "
            "official file, such as breastmnist_64 (https://doi.org/10.5281/zenodo.10519652)"
        )
    try:
        with zipfile.ZipFile(npz) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{npz} is no npz (or only part of one): {error}; download it again") from error


def read_header(npz: Path, key: str) -> ArrayHeader:
    """Shape and type of an array, without reading it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz, is damaged, or lacks the array.
    """
    with _member(npz, key) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return ArrayHeader(shape, dtype)


def read_array(npz: Path, key: str) -> NDArray[np.generic]:
    """An array, whole; the zip's checksum is compared on the way.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no npz, is damaged, lacks the array, or the array holds Python objects.
    """
    with _member(npz, key) as member:
        array: NDArray[np.generic] = np.lib.format.read_array(member, allow_pickle=False)
    return array


def read_labels(npz: Path, split: str) -> NDArray[np.int64]:
    """The split's labels: ``[N]``, or ``[N, L]`` of L > 1 labels an image.

    Raises:
        ValueError: beside `read_array`'s, if they are no whole numbers, negative, or of another shape.
    """
    key = f"{split}_labels"
    labels = read_array(npz, key)
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iub":
        raise ValueError(
            f"{npz}: {key} must be whole numbers [N], [N, 1] or [N, L], got {labels.dtype} {list(labels.shape)}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    numbers = labels.astype(np.int64)
    if numbers.size > 0 and numbers.min() < 0:
        raise ValueError(f"{npz}: {key} has the label {numbers.min()}; labels count from 0")
    return numbers


def check_images(npz: Path, split: str, labels: int) -> ArrayHeader:
    """The header of the split's images, which must be bytes, grey or RGB, and as many as their labels.

    Raises:
        ValueError: if they are not.
    """
    key = f"{split}_images"
    header = read_header(npz, key)
    flat = len(header.shape) == 3 or (len(header.shape) == 4 and header.shape[3] == 3)
    if not flat or header.dtype != np.uint8 or 0 in header.shape:
        hint = "; sets of volumes are not supported" if len(header.shape) == 4 and not flat else ""
        raise ValueError(
            f"{npz}: {key} must be uint8 [N, H, W] or [N, H, W, 3], of one image at least, "
            f"got {header.dtype} {list(header.shape)}{hint}"
        )
    if header.shape[0] != labels:
        raise ValueError(
            f"{npz}: {key} has {header.shape[0]} images, but there are {labels} labels: not as many labels"
        )
    return header


def extract_array(npz: Path, key: str, folder: Path) -> Path:
    """Write an array of an npz into a file that can be mapped into memory, once, without holding it in memory.

    An npz itself cannot be mapped: it is a zip. The file lies in a folder named by the npz's path, size and time of
    change, so that a changed npz is extracted again; it is renamed into place when it is whole.

    Args:
        npz: the file.
        key: of the array.
        folder: of all extracted arrays.

    Returns:
        The ``.npy``.

    Raises:
        OSError: if the disk has too little room or the folder cannot be written.
        ValueError: as of `read_array`.
    """
    target = extracted(npz, key, folder)
    if target.is_file():
        return target
    header = read_header(npz, key)
    make_room(target.parent, int(np.prod(header.shape)) * header.dtype.itemsize)
    rank_zero_info(f"extracting {key} of {npz} once into {target.parent}")
    with _member(npz, key) as member, tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as part:
        try:
            shutil.copyfileobj(member, part, COPY_BYTES)
            part.close()
            np.load(part.name, mmap_mode="r", allow_pickle=False)  # refuses objects, and too few bytes
            os.chmod(part.name, 0o444)
            os.replace(part.name, target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return target


def extracted(npz: Path, key: str, folder: Path) -> Path:
    """Where `extract_array` puts an array.

    Raises:
        FileNotFoundError: if there is no such npz.
    """
    facts = npz.stat()
    state = f"{npz.resolve()}\n{facts.st_size}\n{facts.st_mtime_ns}"
    return folder / f"{npz.stem}-{hashlib.sha256(state.encode()).hexdigest()[:12]}" / f"{key}.npy"


class MappedArrayImages(ImageSource):
    """Images in a ``.npy`` file as MedMNIST stores them, mapped into memory and shared by all that read it.

    Args:
        file: an array ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._images = np.load(file, mmap_mode="r", allow_pickle=False)

    def __reduce__(self) -> tuple[type[MappedArrayImages], tuple[Path]]:
        """By name: a pickled map would carry all images along to processes that are not forked."""
        return MappedArrayImages, (self.file,)

    def __len__(self) -> int:
        """N."""
        return len(self._images)

    def read(self, index: int) -> Tensor:
        """``[1, H, W]`` or ``[3, H, W]`` uint8, a copy: the file cannot be written through it."""
        return self._copy([index])[0]

    def read_batch(self, indices: Sequence[int], square: SquareCrop) -> Tensor:
        """``[B, C, S, S]`` uint8, copied in one go."""
        return square(self._copy(indices))

    def _copy(self, indices: Sequence[int]) -> Tensor:
        images = torch.from_numpy(self._images[np.asarray(indices, dtype=np.int64)])
        return images.unsqueeze(1) if images.dim() == 3 else images.movedim(-1, 1).contiguous()


@contextmanager
def _member(npz: Path, key: str) -> Iterator[IO[bytes]]:
    """An array's bytes in its npz, with the errors of reading told as what they mean."""
    keys = read_keys(npz)
    if key not in keys:
        raise ValueError(f"{npz} lacks the array {key}; it has: {', '.join(keys) or 'none'}")
    try:
        with zipfile.ZipFile(npz) as archive, archive.open(f"{key}.npy") as member:
            yield member
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(
            f"{npz}: the array {key} cannot be read: {error}; if the file is damaged, get it again"
        ) from error
