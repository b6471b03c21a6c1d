"""What is known of image files, so that no file is read twice: a CSV with a record a file, written once and reused."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from lightning.pytorch.utilities import rank_zero_info

#: Raised whenever the same file makes another record; it stands in every row of the CSV.
MANIFEST_VERSION = "1"
MANIFEST_FILE = "manifest.csv"
#: The folder below a root where what was learnt of its images lies.
DEFAULT_FOLDER = ".tamis"
#: The error of a file that is not there.
MISSING = "no such file"


class FileRecord(NamedTuple):
    """What one file holds.

    Args:
        file: path relative to the root, with forward slashes.
        size: bytes, -1 if they cannot be had.
        modified: when the file was last written, in nanoseconds since 1970.
        sha256: of the file's bytes, as 64 hexadecimal digits; empty if they cannot be had.
        pixels: hash of the decoded pixels and their shape, as 32 hexadecimal digits; grey is the same in one channel
            or in three equal ones. Empty if the file cannot be decoded.
        width: pixels.
        height: pixels.
        depth: slices along the last axis of a volume; 1 for an image.
        mode: Pillow's (``L``, ``RGB`` ...), or the type of a medical format's values, ``float32``.
        mean: of the grey values in [0, 1], over all slices; medical formats between their 1st and 99th percentile.
        mean_square: of the squares of the grey values in [0, 1].
        smallest: grey value, 0 to 255.
        largest: grey value, 0 to 255.
        blank_slices: the slices of one value everywhere, counted from 0 and separated by spaces; ``0`` for such an
            image, empty for all that show something.
        error: why the file cannot be read; empty if it can.
    """

    file: str
    size: int
    modified: int
    sha256: str = ""
    pixels: str = ""
    width: int = 0
    height: int = 0
    depth: int = 0
    mode: str = ""
    mean: float = 0.0
    mean_square: float = 0.0
    smallest: int = 0
    largest: int = 0
    blank_slices: str = ""
    error: str = ""


#: Records by file.
Manifest = dict[str, FileRecord]

_COLUMNS = (*FileRecord._fields, "version")


def manifest_folder(root: Path, folder: Path | None = None) -> Path:
    """Where a root's manifest lies, unless another folder is named."""
    return root / DEFAULT_FOLDER if folder is None else folder


def content_hashes(manifest: Manifest, files: Sequence[str]) -> list[str]:
    """The SHA-256 of each file's bytes, in the order of ``files``; empty for a file that is missing.

    Raises:
        KeyError: for a file that was never scanned.
    """
    unknown = next((file for file in files if file not in manifest), None)
    if unknown is not None:
        raise KeyError(f"{unknown} stands in no manifest; scan the files first (prepare_data does)")
    return [manifest[file].sha256 for file in files]


def read_manifest(folder: Path) -> Manifest:
    """The records in a folder; none if there is no manifest, or if it is damaged or of another version.

    These two are told: what they knew is found out anew.
    """
    file = folder / MANIFEST_FILE
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as handle:
            return {record.file: record for record in _parse(handle)}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, csv.Error) as error:
        rank_zero_info(f"{file} cannot be used ({error}); the images are scanned again")
        return {}


def _parse(handle: TextIO) -> Iterator[FileRecord]:
    rows = csv.reader(handle)
    if tuple(next(rows, ())) != _COLUMNS:
        raise ValueError("it is of another version, or none")
    for row in rows:
        # The version is the last cell: a row that was cut short lacks it.
        if len(row) != len(_COLUMNS) or row[-1] != MANIFEST_VERSION:
            raise ValueError(f"line {rows.line_num} is cut short or of another version")
        try:
            yield _record(row)
        except ValueError as error:
            raise ValueError(f"line {rows.line_num}: {error}") from error


def _record(row: Sequence[str]) -> FileRecord:
    # Cell by cell, since a set has a million rows: a loop over the types takes half as long again.
    (file, size, modified, sha256, pixels, width, height, depth, mode) = row[:9]
    (mean, mean_square, smallest, largest, blank_slices, error, _) = row[9:]
    return FileRecord(
        file,
        int(size),
        int(modified),
        sha256,
        pixels,
        int(width),
        int(height),
        int(depth),
        mode,
        float(mean),
        float(mean_square),
        int(smallest),
        int(largest),
        blank_slices,
        error,
    )


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Put the records into a folder, by file name. Whoever reads at that moment sees the old ones or the new.

    Raises:
        OSError: if the folder cannot be written, saying what to do.
    """

    def write(handle: TextIO) -> None:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((*manifest[file], MANIFEST_VERSION) for file in sorted(manifest))

    return write_atomically(folder / MANIFEST_FILE, write)


def write_rows(file: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> Path:
    """Write a CSV of rows as a whole; see `write_atomically`."""

    def write(handle: TextIO) -> None:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    return write_atomically(file, write)


def write_atomically(file: Path, write: Callable[[TextIO], None]) -> Path:
    """Write a text file beside its place and move it there when it is on the disk: it is never seen in part.

    Raises:
        OSError: if the folder cannot be written, saying what to do.
    """
    part = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("x", encoding="utf-8", errors="surrogateescape", newline="") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(file)
    except OSError as error:
        raise _unwritable(file.parent, error) from error
    finally:
        with suppress(OSError):  # it has been moved, or could not be made
            part.unlink()
    return file


def check_writable(folder: Path) -> None:
    """Raise the error of a folder that cannot be written now, not after an hour of work."""
    write_atomically(folder / f"{MANIFEST_FILE}.test", lambda handle: None).unlink()


def _unwritable(folder: Path, error: OSError) -> OSError:
    return OSError(
        f"cannot write into {folder}, where the manifest of the images is kept: {error.strerror or error}; "
        "name a folder that can be written (--folder of the audit, cache_dir of the datamodule)"
    )
