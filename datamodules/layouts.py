"""Which images a folder holds, told by looking: CSVs, folders of splits, or folders of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .image_csv import COLUMNS, SPLIT_NAMES, names_images, read_csv
from .image_table import ImageTable
from .image_trees import is_image, read_tree, visible_files, visible_folders
from .radimagenet_classes import CLASS_PARTS, MODALITIES
from .splitting import check_shares, split_rows

SPLITS = ("train", "val", "test")
CSV_NAME = "RadiologyAI_{split}.csv"
#: Of images that come without a split; RadImageNet's own shares.
DEFAULT_SHARES = (0.75, 0.1, 0.15)
#: The share of training images in the two published sets of CSVs, which have the same names.
PUBLISHED_SHARES = {"official (by patient)": 0.75, "refined (drawn anew)": 0.889}
#: A million rows are not somebody's subset.
WHOLE_SET = 1_000_000
EXPECTED = (
    f"{CSV_NAME.format(split='{train,val,test}')} or other CSVs with the columns {' and '.join(COLUMNS)}, "
    "{train,val,test}/<class>/<image>, the folders CT, MR and US of radiology_ai, or <class>/<image>"
)


class Layout(NamedTuple):
    """What was found in a folder.

    Args:
        root: the folder.
        kind: what it was taken for.
        tables: by split, those of ``train``, ``val`` and ``test`` that there are; file names are relative to the root.
        notes: what should be told.
    """

    root: Path
    kind: str
    tables: dict[str, ImageTable]
    notes: list[str]

    @property
    def description(self) -> str:
        """One line: what was found and how much of it."""
        counts = ", ".join(f"{split} {table.rows}" for split, table in self.tables.items())
        classes = len({label for table in self.tables.values() for label in set(table.labels)})
        return f"{self.root}: {self.kind}; {classes} classes; images: {counts}{_published_set(self.tables)}"

    def table(self, split: str) -> ImageTable:
        """A split's images.

        Raises:
            FileNotFoundError: if there is no such split.
        """
        if split not in self.tables:
            name = CSV_NAME.format(split=split)
            raise FileNotFoundError(
                f"{self.root / name} does not exist, nor has {self.root} another {split} split: it was taken for "
                f"{self.kind}, with {' and '.join(self.tables)}"
            )
        return self.tables[split]


class _Found(NamedTuple):
    kind: str
    tables: dict[str, ImageTable]
    notes: list[str]


def read_layout(
    root: Path,
    group_column: str | None = None,
    split_shares: tuple[float, float, float] | None = None,
    split_seed: int = 0,
) -> Layout:
    """Find out which images a folder holds.

    In this order: ``RadiologyAI_{train,val,test}.csv``; ``{train,val,test}.csv``; one CSV; folders of splits; folders
    ``CT``, ``MR`` and ``US``; folders of classes. All may lie in one folder below the root. What comes without
    splits is split here, by patient if a column says it; see `split_rows`.

    Args:
        root: the folder.
        group_column: of a CSV, what must stay in one split; by default the column of the patient if there is one.
        split_shares: of train, val and test, for what comes without splits.
        split_seed: of that split.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing that is known.
        ValueError: if what is there cannot be read; see `read_csv`, `read_tree` and `split_rows`.
    """
    shares = DEFAULT_SHARES if split_shares is None else split_shares
    check_shares(shares)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist; the root of a set of images holds {EXPECTED}")
    folder = root
    while (found := _read_folder(folder, group_column, shares, split_seed)) is None:
        folders = visible_folders(folder)
        if len(folders) != 1:
            raise FileNotFoundError(f"{folder} holds {_listing(folder)}, but none of: {EXPECTED}")
        folder = folder / folders[0]
    if folder != root:
        prefix = folder.relative_to(root).as_posix()
        moved = {
            split: table._replace(files=[f"{prefix}/{name}" for name in table.files])
            for split, table in found.tables.items()
        }
        found = found._replace(tables=moved)
    return Layout(root, found.kind, found.tables, found.notes)


def _read_folder(folder: Path, group_column: str | None, shares: Sequence[float], seed: int) -> _Found | None:
    """What lies in a folder itself; ``None`` if it is nothing known, or a folder around one other folder."""
    csvs = [name for name in visible_files(folder) if name.lower().endswith(".csv")]
    official = {split: name for split in SPLITS if (name := CSV_NAME.format(split=split)) in csvs}
    if official:
        return _read_csvs("RadImageNet's CSVs", folder, official, group_column)
    named = [name for name in csvs if names_images(folder / name)]
    of_split = _by_split(folder, [name for name in named if name[:-4].lower() in SPLIT_NAMES])
    if of_split:
        return _read_csvs("a CSV for each split", folder, of_split, group_column)
    if len(named) > 1:
        raise ValueError(
            f"{folder} has several CSVs of images, {', '.join(named)}: name them train.csv, val.csv and test.csv, or "
            "leave one, with a column split"
        )
    if named:
        return _read_one_csv(folder / named[0], group_column, shares, seed)
    found = _read_trees(folder, shares, seed)
    if found is None and csvs:
        read_csv(folder / csvs[0])  # says what it lacks
    if found is not None and group_column is not None:
        raise ValueError(f"group_column is {group_column}, but {folder} has no CSV that could have it")
    return found


def _read_csvs(kind: str, folder: Path, names: dict[str, str], group_column: str | None) -> _Found:
    read = {split: read_csv(folder / name, group_column) for split, name in names.items()}
    tables = {split: found.table for split, found in read.items()}
    return _Found(kind, tables, [*(note for found in read.values() for note in found.notes), *_torn_groups(tables)])


def _read_one_csv(file: Path, group_column: str | None, shares: Sequence[float], seed: int) -> _Found:
    table, splits, notes = read_csv(file, group_column)
    if splits is None:
        tables, more = _split(table, shares, seed)
        return _Found(f"one CSV, {file.name}, split here", tables, [*notes, *more])
    tables = _select(table, splits)
    return _Found(f"one CSV, {file.name}, with its split", tables, [*notes, *_torn_groups(tables)])


def _read_trees(folder: Path, shares: Sequence[float], seed: int) -> _Found | None:
    folders = visible_folders(folder)
    splits = [name for name in folders if name.lower() in SPLIT_NAMES]
    if splits and (len(splits) == len(folders) or "train" in {SPLIT_NAMES[name.lower()] for name in splits}):
        read = {split: read_tree(folder / name, f"{name}/") for split, name in _by_split(folder, splits).items()}
        tables = {split: found.table for split, found in read.items()}
        notes = [note for found in read.values() for note in found.notes]
        if len(splits) < len(folders):
            notes.append(f"{folder}: skipped beside the splits: {', '.join(sorted(set(folders) - set(splits)))}")
        refined = all(label in CLASS_PARTS for table in tables.values() for label in set(table.labels))
        return _Found("RadImageNet's classes in folders" if refined else "folders of splits", tables, notes)
    if len(folders) < 2 and not set(folders) & set(MODALITIES):
        return None
    table, notes = read_tree(folder)
    tables, more = _split(table, shares, seed)
    official = set(folders) <= set(MODALITIES)
    return _Found(
        f"{'the tree radiology_ai' if official else 'folders of classes'}, split here", tables, [*notes, *more]
    )


def _by_split(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The file or folder of each split, in the order of `SPLITS`."""
    of_split = {
        split: [name for name in names if SPLIT_NAMES[name.lower().removesuffix(".csv")] == split] for split in SPLITS
    }
    for split, same in of_split.items():
        if len(same) > 1:
            raise ValueError(f"{folder} has more than one {split} split: {', '.join(same)}; take all but one away")
    return {split: same[0] for split, same in of_split.items() if same}


def _split(table: ImageTable, shares: Sequence[float], seed: int) -> tuple[dict[str, ImageTable], list[str]]:
    chosen = split_rows(table.groups or table.files, table.labels, shares, seed)
    notes = []
    if table.groups is None:
        notes = [
            f"{table.source}: nothing says which images are one patient's, so they were split one by one; neighbouring "
            "slices of a patient in two splits make the scores too good"
        ]
    return _select(table, [SPLITS[split] for split in chosen]), notes


def _select(table: ImageTable, splits: Sequence[str]) -> dict[str, ImageTable]:
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, split in enumerate(splits):
        rows[split].append(row)
    return {split: table.select(of_split) for split, of_split in rows.items() if of_split}


def _torn_groups(tables: dict[str, ImageTable]) -> list[str]:
    """A note for each two splits that share a patient."""
    groups = {split: set(table.groups or ()) for split, table in tables.items()}
    names = list(groups)
    return [
        f"{tables[one].source}: {len(both)} patients are in {one} and in {other}, such as {min(both)}"
        for position, one in enumerate(names)
        for other in names[position + 1 :]
        if (both := groups[one] & groups[other])
    ]


def _published_set(tables: dict[str, ImageTable]) -> str:
    rows = sum(table.rows for table in tables.values())
    if rows < WHOLE_SET or "train" not in tables:
        return ""
    share = tables["train"].rows / rows
    near = [name for name, published in PUBLISHED_SHARES.items() if abs(share - published) < 0.03]
    return f"; {share:.1%} to train on, like {near[0] if near else 'neither'} of the published splits"


def _listing(folder: Path) -> str:
    names = [*(f"{name}/" for name in visible_folders(folder)), *visible_files(folder)]
    images = sum(is_image(name) for name in names)
    shown = f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else "nothing"
    return f"{shown} ({images} images without a class)" if images else shown
