"""Looking into image files: each is read once, hashed and decoded, and what came out is a record."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .image_files import EIGHT_BIT_MODES, RASTER_SUFFIXES
from .manifest import (
    MISSING,
    FileRecord,
    Manifest,
    check_writable,
    manifest_folder,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from PIL.Image import Image

#: Files that a thread takes at a time: few enough that the progress bar moves, enough that it costs nothing.
CHUNK = 32
_LEVELS = range(256)
_SQUARES = [level * level for level in _LEVELS]


class DecodedPixels(NamedTuple):
    """What decoding adds to a `FileRecord`, by the names of its fields."""

    pixels: str
    width: int
    height: int
    depth: int
    mode: str
    mean: float
    mean_square: float
    smallest: int
    largest: int
    blank_slices: str


def update_manifest(root: Path, files: Sequence[str], folder: Path | None = None, workers: int = 1) -> Manifest:
    """A manifest with a record of every file, as they are now; only what is new or changed is read.

    A file is taken for unchanged if its size and its time are. What was scanned is kept when the scan is interrupted.

    Args:
        root: what the file names are relative to.
        files: to know; some may be named several times.
        folder: of the manifest, one a root; by default ``.tamis`` in the root.
        workers: threads that read and decode; up to 1 is none beside this one.

    Raises:
        OSError: if there is something to write, and the folder cannot be written.
    """
    place = manifest_folder(root, folder)
    known = read_manifest(place)
    changed = changed_files(root, files, known)
    if any(file not in known or not known[file].error for file in changed):
        check_writable(place)
    records = dict(known)
    try:
        for record in scan_files(root, changed, workers):
            records[record.file] = record
    finally:
        if records != known:
            write_manifest(place, records)
    return records


def changed_files(root: Path, files: Sequence[str], known: Manifest) -> list[str]:
    """The files without a record that still holds, each once.

    What could not be read is tried again: a right may have been given since, or a reader's package installed.
    """
    return [file for file in dict.fromkeys(files) if file not in known or not _still_holds(root, known[file])]


def _still_holds(root: Path, record: FileRecord) -> bool:
    try:
        status = os.stat(f"{root}/{record.file}")
    except (FileNotFoundError, NotADirectoryError):
        return record.error == MISSING
    except OSError:
        return False
    return not record.error and (status.st_size, status.st_mtime_ns) == (record.size, record.modified)


def scan_files(root: Path, files: Sequence[str], workers: int = 1) -> Iterator[FileRecord]:
    """A record of each file, in their order, under a progress bar if somebody is looking.

    The readers and hashes release Python's lock for most of their time, so threads do; processes would have to import
    everything first.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    def scan(start: int) -> list[FileRecord]:
        return [read_record(root, file) for file in files[start : start + CHUNK]]

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = not files or not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0"
    starts = range(0, len(files), CHUNK)
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        task = progress.add_task("reading images", total=len(files))
        if workers <= 1:
            for start in starts:
                records = scan(start)
                progress.advance(task, len(records))
                yield from records
            return
        with ThreadPoolExecutor(workers) as pool:
            try:
                for records in pool.map(scan, starts):
                    progress.advance(task, len(records))
                    yield from records
            finally:
                pool.shutdown(cancel_futures=True)


def read_record(root: Path, file: str) -> FileRecord:
    """Read, hash and decode one file; whatever is wrong with it is the record's error."""
    path = f"{root}/{file}"
    try:
        with open(path, "rb", buffering=0) as handle:
            status = os.fstat(handle.fileno())
            content = handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return FileRecord(file, -1, 0, error=MISSING)
    except OSError as error:
        return FileRecord(file, -1, 0, error=error.strerror or str(error))
    size, modified, digest = len(content), status.st_mtime_ns, sha256(content).hexdigest()
    if not content:
        return FileRecord(file, size, modified, digest, error="the file is empty")
    try:
        found = _decode(path, content)
    except Exception as error:  # every reader has its own exceptions
        return FileRecord(file, size, modified, digest, error=_one_line(error))
    return FileRecord(file, size, modified, digest, *found)


def _decode(path: str, content: bytes) -> DecodedPixels:
    if os.path.splitext(path)[1].lower() in RASTER_SUFFIXES:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode in EIGHT_BIT_MODES:
                    return record_pixels(image)
        except UnidentifiedImageError as error:  # its message holds an address in memory
            raise ValueError("the file is no image that Pillow knows") from error
    return _medical(Path(path))


def record_pixels(image: Image) -> DecodedPixels:
    """As `read_image` sees it: without transparency, palettes resolved."""
    grey = image if image.mode == "L" else image.convert("L")
    counts, data, shown = grey.histogram(), grey.tobytes(), "L"
    blank = max(counts) == len(data)
    if image.mode not in ("1", "L", "LA"):
        colours = image.convert("RGB")
        colour_data = colours.tobytes()
        if colour_data != grey.convert("RGB").tobytes():  # more than grey in three channels
            data, shown = colour_data, "RGB"
            blank = colours.getcolors(1) is not None
    sizes = (image.width, image.height, 1)
    return _pixels(counts, data, (shown, *sizes[:2]), sizes, image.mode, "0" if blank else "")


def _medical(path: Path) -> DecodedPixels:
    """As `read_slice` sees it without an ``intensity_range``, all slices of a volume in one record."""
    import numpy as np

    from .volumes import read_values, to_bytes

    values, white_first = read_values(path)
    stack = values[..., np.newaxis] if values.ndim == 2 else values
    counts, blank = np.zeros(256, dtype=np.int64), []
    for position in range(stack.shape[-1]):
        image = stack[..., position]
        finite = image[np.isfinite(image)]
        if finite.size == 0 and values.ndim == 2:
            raise ValueError("no value of the image is finite")
        if finite.size == 0 or finite.min() == finite.max():
            blank.append(position)
        grey = to_bytes(image).numpy().ravel() if finite.size else np.zeros(image.size, dtype=np.uint8)
        counts += np.bincount(255 - grey if white_first else grey, minlength=256)
    width, height, depth = stack.shape
    data, shown = np.ascontiguousarray(values).tobytes(), (str(values.dtype), white_first, *values.shape)
    blanks = " ".join(map(str, blank))
    return _pixels(counts.tolist(), data, shown, (width, height, depth), str(values.dtype), blanks)


def _pixels(
    counts: Sequence[int],
    data: bytes,
    hashed_shape: tuple[object, ...],
    sizes: tuple[int, int, int],
    mode: str,
    blank_slices: str,
) -> DecodedPixels:
    """From how many pixels have each grey value, and from the bytes that the hash is of."""
    digest = sha256(repr(hashed_shape).encode())
    digest.update(data)
    total = sum(counts)
    return DecodedPixels(
        digest.hexdigest()[:32],
        *sizes,
        mode,
        sum(map(mul, counts, _LEVELS)) / (255 * total),
        sum(map(mul, counts, _SQUARES)) / (255**2 * total),
        next(level for level in _LEVELS if counts[level]),
        next(level for level in reversed(_LEVELS) if counts[level]),
        blank_slices,
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
