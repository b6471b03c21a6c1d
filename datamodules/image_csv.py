"""A CSV that names images: ``filename`` and ``label``, and if it has them the patient, the slice and the split."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .image_table import ImageTable
from .radimagenet_classes import CLASS_PARTS, canonical_class, class_of_path

COLUMNS = ("filename", "label")
SLICE_COLUMN = "slice"
SPLIT_COLUMN = "split"
#: Columns that hold the patient, the likeliest first; capitals, spaces and underscores are ignored.
GROUP_COLUMNS = ("patientid", "patient", "subjectid", "subject")
#: What the splits are called elsewhere.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
#: Of a row whose file is one image, in a table of which others are slices.
NO_SLICE = -1


class CsvTable(NamedTuple):
    """A CSV's rows.

    Args:
        table: the rows.
        splits: of each row, ``train``, ``val`` or ``test``; ``None`` without such a column.
        notes: what the reader of the CSV should be told.
    """

    table: ImageTable
    splits: list[str] | None
    notes: list[str]


def names_images(file: Path) -> bool:
    """Whether a CSV has the columns of one that names images."""
    try:
        return set(COLUMNS) <= set(_read_header(file))
    except ValueError:  # something else's text; if nothing else is found, reading it will say so
        return False


def read_csv(file: Path, group_column: str | None = None) -> CsvTable:
    """Read a CSV of images. RadImageNet's labels become canonical; see `canonical_class`.

    Args:
        file: the CSV, in UTF-8; its file names are relative to its folder.
        group_column: of what must stay in one split; by default the first of `GROUP_COLUMNS` that there is.

    Raises:
        ValueError: naming file and line, if a column is missing, a name or label is empty, a file lies outside the
            folder, a slice is no number, a split is none, the text is not UTF-8 or no CSV, or there is no row.
    """
    header = _read_header(file)
    if not set(COLUMNS) <= set(header):
        raise ValueError(f"{file} must have the columns {' and '.join(COLUMNS)}, found: {', '.join(header) or 'none'}")
    group = _group_column(file, header, group_column)
    wanted = [*COLUMNS, *([group] if group else []), *(name for name in (SLICE_COLUMN, SPLIT_COLUMN) if name in header)]
    cells, lines = _read_cells(file, [header.index(name) for name in wanted])
    columns = dict(zip(wanted, cells, strict=True))
    for name in (*COLUMNS, *([group] if group else [])):
        if not all(columns[name]):
            line = lines[columns[name].index("")]
            raise ValueError(f"{file}, line {line}: the {name} is empty; give the row one, or take it out")
    files = [
        _tidy(name, file, line) if _is_odd(name) else name
        for name, line in zip(columns["filename"], lines, strict=True)
    ]
    labels, notes = canonical_labels(file.name, files, columns["label"], lines)
    groups = columns[group] if group else None
    table = ImageTable(file.name, files, labels, lines, _slices(file, columns, lines), groups)
    return CsvTable(table, _splits(file, columns, lines), notes)


def canonical_labels(
    source: str, files: Sequence[str], labels: Sequence[str], lines: Sequence[int]
) -> tuple[list[str], list[str]]:
    """RadImageNet's names for a CSV's labels, and what is to be told of them.

    A bare pathology (``normal``) takes its anatomy from the folder, but only if all labels are such: in ``normal`` and
    ``abnormal``, say, it is a class of the user's own.
    """
    pairs = [(name.rpartition("/")[0], label) for name, label in zip(files, labels, strict=True)]
    of_path = {folder: class_of_path(f"{folder}/") for folder in {folder for folder, _ in pairs}}
    names = {(folder, label): canonical_class(f"{folder}/", label) for folder, label in set(pairs)}
    if all(_is_bare(label, of_path[folder]) for folder, label in names):
        names = {(folder, label): of_path[folder] for folder, label in names}
    astray = {pair for pair, name in names.items() if name is not None and of_path[pair[0]] not in (None, name)}
    rows = [row for row, pair in enumerate(pairs) if pair in astray] if astray else []
    notes = []
    if rows:
        notes = [
            f"{source}: the folder names another class than the label in {len(rows)} rows, and the label was taken "
            f"(the first is line {lines[rows[0]]}: {files[rows[0]]} as {labels[rows[0]]})"
        ]
    chosen = {pair: name or pair[1] for pair, name in names.items()}
    return [chosen[pair] for pair in pairs], notes


def _is_bare(label: str, of_path: str | None) -> bool:
    return of_path is not None and label == CLASS_PARTS[of_path].pathology


def _read_header(file: Path) -> list[str]:
    with file.open("rb") as handle:
        line = handle.readline()
    return [name.strip() for name in next(csv.reader([_decode(file, line)]), [])]


def _decode(file: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line} is not UTF-8 ({error.reason}, byte 0x{content[error.start]:02x}); "
            "save the CSV as UTF-8"
        ) from error


def _read_cells(file: Path, positions: list[int]) -> tuple[list[list[str]], list[int]]:
    """The cells of some columns without the spaces around them, a list a column, and the rows' lines."""
    reader = csv.reader(io.StringIO(_decode(file, file.read_bytes()), newline=""))
    columns: list[list[str]] = [[] for _ in positions]
    appends = [(column.append, position) for column, position in zip(columns, positions, strict=True)]
    lines: list[int] = []
    widest = max(positions)
    try:
        next(reader)
        for row in reader:
            if len(row) > widest:
                for append, position in appends:  # a list of each row kept would have a million of them collected
                    append(row[position].strip())
                lines.append(reader.line_num)
            elif any(row):
                raise ValueError(f"{file}, line {reader.line_num} has {len(row)} cells, the header asks for more")
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} is no CSV: {error}") from error
    if not lines:
        raise ValueError(f"{file} names no image: {_emptiness(file)}")
    return columns, lines


def _emptiness(file: Path) -> str:
    split = SPLIT_NAMES.get(file.stem.rpartition("_")[2].lower())
    return f"the {split} split is empty" if split else "there is nothing below the header"


def _group_column(file: Path, header: Sequence[str], asked: str | None) -> str | None:
    if asked is not None:
        if asked not in header:
            raise ValueError(f"{file} has no column {asked} to group by, found: {', '.join(header)}")
        return asked
    plain = {re.sub(r"[\s_]", "", name).lower(): name for name in header}
    return next((plain[name] for name in GROUP_COLUMNS if name in plain), None)


def _is_odd(name: str) -> bool:
    """Whether a name may be absolute, or has a backslash, an empty part or one that begins with a dot."""
    return name[0] in "./" or name[1:2] == ":" or "\\" in name or "//" in name or "/." in name


def _tidy(name: str, file: Path, line: int) -> str:
    """The name with forward slashes and without dots; it must stay in the CSV's folder."""
    slashed = name.replace("\\", "/")
    folder = f"{file.parent.resolve().as_posix()}/"
    inside = os.path.normpath(slashed.removeprefix(folder))
    if inside in (".", "..") or re.match(r"/|\.\./|[A-Za-z]:", inside):
        raise ValueError(
            f"{file}, line {line}: {name} lies outside {file.parent}; file names are relative to the CSV's folder"
        )
    return inside


def _slices(file: Path, columns: dict[str, list[str]], lines: Sequence[int]) -> list[int] | None:
    cells = columns.get(SLICE_COLUMN)
    if cells is None or not any(cells):
        return None
    for line, cell in zip(lines, cells, strict=True):
        if cell and not cell.isdecimal():
            raise ValueError(
                f"{file}, line {line}: the {SLICE_COLUMN} {cell} is no number from 0; leave it empty where the file is "
                "one image"
            )
    return [int(cell) if cell else NO_SLICE for cell in cells]


def _splits(file: Path, columns: dict[str, list[str]], lines: Sequence[int]) -> list[str] | None:
    cells = columns.get(SPLIT_COLUMN)
    if cells is None:
        return None
    for cell in Counter(cells):
        if cell.lower() not in SPLIT_NAMES:
            raise ValueError(
                f"{file}, line {lines[cells.index(cell)]}: the {SPLIT_COLUMN} must be train, val or test, "
                f"got {cell or 'nothing'}"
            )
    return [SPLIT_NAMES[cell.lower()] for cell in cells]
