"""What is wrong with a set of images, from its tables and what their files hold; and what to leave out for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from .image_table import ImageTable
from .manifest import MISSING, FileRecord, Manifest

#: From the most basic: an image stands under the first that holds, but a pair can be in two splits and in conflict.
#:
#: ``missing``: there is no such file. ``unreadable``: it cannot be decoded. ``blank``: one value everywhere.
#: ``label_conflict``: the same pixels, or the same file, under several labels. ``two_splits``: the same pixels, or the
#: same file, in several splits. ``duplicate``: the same pixels several times in one split under one label.
#: ``group_in_two_splits``: other images of one patient in several splits.
FaultKind = Literal[
    "missing", "unreadable", "blank", "label_conflict", "two_splits", "duplicate", "group_in_two_splits"
]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
#: Of what is in several splits, the image stays in the first of these.
_SPLIT_ORDER = ("train", "val", "test")


class Row(NamedTuple):
    """Where an image stands.

    Args:
        split: name of the table.
        row: in the table, from 0.
    """

    split: str
    row: int


class Fault(NamedTuple):
    """One thing that is wrong.

    Args:
        kind: see `FaultKind`.
        rows: it is about, the first to keep first; several rows of one file, or of files with the same pixels.
        files: of each row.
        text: what was found.
    """

    kind: FaultKind
    rows: list[Row]
    files: list[str]
    text: str


Tables = Mapping[str, ImageTable]


def find_faults(tables: Tables, manifest: Manifest) -> list[Fault]:
    """Every fault, the most basic kinds first and by file name within a kind, whatever the order of rows and files.

    Args:
        tables: by split; all that belong together, since some faults are between splits.
        manifest: with a record of every file in the tables.

    Raises:
        KeyError: for a file without a record.
    """
    basic: dict[tuple[FaultKind, str, str], list[Row]] = {}
    first: dict[str, Row] = {}
    copies: dict[str, list[Row]] = {}
    for split in _in_order(tables):
        table = tables[split]
        for number, file in enumerate(table.files):
            row, slice_index = Row(split, number), _slice_of(table, number)
            record = manifest[file]
            wrong = _basic_fault(record, slice_index)
            if wrong is not None:
                basic.setdefault((wrong[0], file, wrong[1]), []).append(row)
                continue
            key = record.pixels if slice_index is None else f"{record.pixels} {slice_index}"
            earlier = first.setdefault(key, row)
            if earlier is not row:
                copies.setdefault(key, [earlier]).append(row)
    faults = [Fault(kind, rows, [file] * len(rows), text) for (kind, file, text), rows in basic.items()]
    faults += [fault for rows in copies.values() for fault in _faults_of_copies(tables, rows)]
    faults += _torn_groups(tables, dropped_rows(faults))
    return sorted(faults, key=lambda fault: (FAULT_KINDS.index(fault.kind), fault.files, fault.rows))


def dropped_rows(faults: Iterable[Fault]) -> set[Row]:
    """The rows that the policy ``drop`` leaves out.

    Of missing, unreadable and blank images all; of a label conflict all, since nobody knows the label; of copies all
    but one, which stays in training if it is there, else in validation; of a group those outside its first split.
    """
    faults = list(faults)
    dropped: set[Row] = set()
    for fault in faults:
        if fault.kind in ("two_splits", "duplicate"):
            dropped.update(fault.rows[1:])
        elif fault.kind == "group_in_two_splits":
            dropped.update(row for row in fault.rows if row.split != fault.rows[0].split)
        else:
            dropped.update(fault.rows)
    return dropped


def drop_faults(tables: Tables, faults: Iterable[Fault]) -> dict[str, ImageTable]:
    """The tables without the rows of `dropped_rows`, which have no faults any more.

    Raises:
        ValueError: if nothing is left of a split.
    """
    dropped = dropped_rows(faults)
    kept: dict[str, ImageTable] = {}
    for split, table in tables.items():
        rows = [row for row in range(table.rows) if (split, row) not in dropped]
        if table.rows and not rows:
            raise ValueError(
                f"the audit leaves no image of the {split} split: all {table.rows} are missing, broken, blank, "
                "of two classes, or copies of images in other splits; `python -m tamis.datamodules.audit` lists them"
            )
        kept[split] = table if len(rows) == table.rows else table.select(rows)
    return kept


def lost_classes(before: Tables, after: Tables, split: str = "train") -> list[str]:
    """The classes that have images in a split of one set of tables and none in the other's."""
    if split not in before or split not in after:
        return []
    return sorted(set(before[split].labels) - set(after[split].labels))


def _basic_fault(record: FileRecord, slice_index: int | None) -> tuple[FaultKind, str] | None:
    """What is wrong with one image by itself."""
    if record.error:
        return ("missing", "there is no such file") if record.error == MISSING else ("unreadable", record.error)
    if slice_index is None and record.depth > 1:
        return "unreadable", f"it has {record.depth} slices, and no column slice says which"
    position = slice_index or 0
    if not 0 <= position < record.depth:
        return "unreadable", f"there is no slice {position}: it has {record.depth}, counted from 0"
    if record.blank_slices and str(position) in record.blank_slices.split():
        return "blank", f"every pixel is {record.smallest}" if record.depth == 1 else f"slice {position} is one value"
    return None


def _faults_of_copies(tables: Tables, rows: Sequence[Row]) -> Iterator[Fault]:
    """The faults of rows whose pixels are the same."""
    ordered = sorted(rows, key=lambda row: _to_keep_first(tables, row))
    files = [tables[row.split].files[row.row] for row in ordered]
    labels = Counter(tables[row.split].labels[row.row] for row in ordered)
    splits = Counter(row.split for row in ordered)
    what = "the same file" if len(set(files)) == 1 else "the same pixels"
    if len(labels) > 1:
        yield Fault("label_conflict", ordered, files, f"{what} as {_counts(labels)}")
    if len(splits) > 1:
        yield Fault("two_splits", ordered, files, f"{what} in {_counts(splits)}")
    if len(labels) == 1 and len(splits) == 1:
        yield Fault("duplicate", ordered, files, f"{what} {len(ordered)} times as {next(iter(labels))}")


def _torn_groups(tables: Tables, dropped: set[Row]) -> Iterator[Fault]:
    """The groups of which rows in several splits would be left: what stands under another fault counts no more."""
    rows: dict[str, list[Row]] = {}
    splits: dict[str, set[str]] = {}
    for split in _in_order(tables):
        for number, group in enumerate(tables[split].groups or ()):
            if (split, number) not in dropped:
                rows.setdefault(group, []).append(Row(split, number))
                splits.setdefault(group, set()).add(split)
    for group, names in splits.items():
        if len(names) > 1:
            ordered = sorted(rows[group], key=lambda row: _to_keep_first(tables, row))
            text = f"{group} in {_counts(Counter(row.split for row in ordered))}"
            files = [tables[row.split].files[row.row] for row in ordered]
            yield Fault("group_in_two_splits", ordered, files, text)


def _to_keep_first(tables: Tables, row: Row) -> tuple[object, ...]:
    """What rows are sorted by: the same file may be there twice, in one split, but for two patients."""
    table = tables[row.split]
    return _rank(row.split), table.files[row.row], "" if table.groups is None else table.groups[row.row], row


def _slice_of(table: ImageTable, row: int) -> int | None:
    """Which slice a row asks for; ``None`` for a file that is one image."""
    slice_index = None if table.slices is None else table.slices[row]
    return None if slice_index is None or slice_index < 0 else slice_index


def _in_order(tables: Tables) -> list[str]:
    return sorted(tables, key=_rank)


def _rank(split: str) -> tuple[int, str]:
    return (_SPLIT_ORDER.index(split) if split in _SPLIT_ORDER else len(_SPLIT_ORDER), split)


def _counts(counter: Counter[str]) -> str:
    """``abd-normal (2), lung-Nodule (1)``."""
    return ", ".join(f"{name} ({counter[name]})" for name in sorted(counter, key=_rank))
