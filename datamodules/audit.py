"""``python -m tamis.datamodules.audit ROOT``: looks at every image of a set and says what is wrong with it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .auditing import AUDIT_COLUMNS, AUDIT_FILE, Audit, describe, examine_images, fault_rows, summary
from .faults import FAULT_KINDS, drop_faults, find_faults, lost_classes
from .grey_levels import GreyLevels, measure_levels
from .image_table import ImageTable
from .image_trees import is_image
from .layouts import read_layout
from .manifest import MANIFEST_FILE, manifest_folder, write_rows

if TYPE_CHECKING:
    from rich.console import Console

DESCRIPTION = (
    "Looks at every image that a folder's CSVs or folders of classes name, and lists what is missing, unreadable, "
    "blank, of several labels, in several splits or there twice; counts the classes; measures mean and standard "
    "deviation. What the files hold is kept in a manifest, so that a second run reads only what has changed. "
    "The exit status is 0 if nothing is wrong, 1 if something is, and 2 if the audit could not be made."
)
#: Of each kind, what it means or asks for, and what the policy drop does about it.
WHAT_TO_DO = {
    "missing": ("fetch the files, or take their rows out", "leaves them out"),
    "unreadable": ("fetch the files again; a training that comes to one stops", "leaves them out"),
    "blank": ("these show nothing", "leaves them out"),
    "label_conflict": ("nobody knows which label is right", "leaves all of them out"),
    "two_splits": ("the scores would be too good", "keeps the one in training"),
    "duplicate": ("these weigh more than others", "keeps one"),
    "group_in_two_splits": ("the scores would be too good", "keeps the group's first split"),
}
#: Classes shown without --classes: the largest and the smallest.
LARGEST, SMALLEST = 8, 4


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m tamis.datamodules.audit", description=DESCRIPTION)
    parser.add_argument("root", type=Path, help="folder of the images, as for --data.root, or a .npz like MedMNIST's")
    # Records are made under Python's lock, so many more threads would only wait for it.
    threads = min(8, os.cpu_count() or 1)
    parser.add_argument("--workers", type=_count, default=threads, help="threads that read (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where manifest.csv and audit.csv are kept (ROOT/.tamis)")
    parser.add_argument("--group-column", help="column of the CSV that no split may tear apart (a patient's)")
    parser.add_argument(
        "--policy",
        choices=["keep", "drop"],
        default="keep",
        help="count and measure all images, or those that --data.audit drop leaves (%(default)s); no file is touched",
    )
    parser.add_argument("--limit", type=_count, default=5, help="faults of each kind that are shown (%(default)s)")
    parser.add_argument("--classes", action="store_true", help="show the counts of all classes")
    parser.add_argument("--json", type=Path, help="write everything into this file, too")
    return parser


class Found(NamedTuple):
    """What a root holds and what is wrong with it.

    Args:
        description: one line.
        notes: of the layout.
        tables: by split.
        audit: faults and records.
        unnamed: images that no table names.
        written: files.
        droppable: whether a datamodule can leave faulty images out.
    """

    description: str
    notes: list[str]
    tables: dict[str, ImageTable]
    audit: Audit
    unnamed: list[str]
    written: list[Path]
    droppable: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit, print, and return the exit status."""
    from rich.console import Console

    options = build_parser().parse_args(arguments)
    try:
        look = examine_npz if options.root.suffix == ".npz" else examine_folder
        found = look(options.root, options.folder, options.workers, options.group_column)
        kept, problem = _kept(found.tables, found.audit)
        if options.policy == "drop" and problem:
            raise ValueError(problem)
        shown = kept if options.policy == "drop" else found.tables
        levels = measure_levels(shown, found.audit.manifest)
        if options.json is not None:
            options.json.write_text(json.dumps(report(found, levels), indent=2) + "\n")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(found.description)
    for note in found.notes:
        console.print(f"note: {note}")
    print_classes(console, shown, options.classes)
    print_levels(console, levels)
    print_faults(console, found, options.limit)
    if found.audit.faults and found.droppable:
        console.print(f"\n{problem or what_drop_leaves(found.tables, kept)}")
    if found.unnamed:
        count = len(found.unnamed)
        console.print(f"\nnot a fault: nothing names {count} images that lie there, such as {found.unnamed[0]}")
    if found.written:
        console.print(f"\nwritten: {' and '.join(map(str, found.written))}")
    return 1 if found.audit.faults else 0


def examine_folder(root: Path, folder: Path | None, workers: int, group_column: str | None) -> Found:
    """Of files."""
    layout = read_layout(root, group_column)
    audit = examine_images(root, layout.tables, folder, workers)
    place = manifest_folder(root, folder)
    written = [place / MANIFEST_FILE, *([place / AUDIT_FILE] if audit.faults else [])]
    unnamed = unnamed_images(root, layout.tables)
    return Found(layout.description, layout.notes, layout.tables, audit, unnamed, written, True)


def examine_npz(npz: Path, folder: Path | None, workers: int, group_column: str | None) -> Found:
    """Of arrays, which are looked at anew every time."""
    from .npz_audit import read_npz

    if group_column is not None:
        raise ValueError(f"group_column is {group_column}, but {npz} has no columns")
    images = read_npz(npz)
    faults = find_faults(images.tables, images.manifest)
    written = []
    if folder is not None:
        written = [write_rows(folder / AUDIT_FILE, fault_rows(images.tables, faults), AUDIT_COLUMNS)]
    return Found(images.description, [], images.tables, Audit(faults, images.manifest), [], written, False)


def _kept(tables: Mapping[str, ImageTable], audit: Audit) -> tuple[Mapping[str, ImageTable], str]:
    """What the policy drop leaves, or all with the reason why it cannot be."""
    try:
        return drop_faults(tables, audit.faults), ""
    except ValueError as error:
        return tables, str(error)


def what_drop_leaves(tables: Mapping[str, ImageTable], kept: Mapping[str, ImageTable]) -> str:
    """One line about the splits, and one about classes that lose all their training images."""
    left = ", ".join(f"{table.rows} of {tables[split].rows} {split}" for split, table in kept.items())
    lost = lost_classes(tables, kept)
    return f"--data.audit drop would leave {left}" + (f"\nand no training image of {', '.join(lost)}" if lost else "")


def unnamed_images(root: Path, tables: Mapping[str, ImageTable]) -> list[str]:
    """Images below the root that no table names, sorted; hidden folders are not looked into."""
    named = {file for table in tables.values() for file in table.files}
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        images = (prefix + name for name in files if is_image(name) and not name.startswith("."))
        found += [name for name in images if name not in named]
    return sorted(found)


def report(found: Found, levels: Mapping[str, GreyLevels]) -> dict[str, object]:
    """Everything that was found, for programs."""
    counts = Counter(fault.kind for fault in found.audit.faults)
    return {
        "faults": {kind: counts[kind] for kind in FAULT_KINDS},
        "rows": fault_rows(found.tables, found.audit.faults),
        "classes": {split: dict(sorted(Counter(table.labels).items())) for split, table in found.tables.items()},
        "levels": {name: level._asdict() for name, level in levels.items() if level.images},
        "unnamed": found.unnamed,
    }


def print_classes(console: Console, tables: Mapping[str, ImageTable], everything: bool) -> None:
    """Images of each class in each split, the most frequent first."""
    from rich.table import Table
    from rich.text import Text

    counts = {split: Counter(table.labels) for split, table in tables.items()}
    total = sum(counts.values(), Counter[str]())
    names = sorted(total, key=lambda name: (-total[name], name))
    grid = Table(box=None, pad_edge=False)
    grid.add_column("Images", overflow="fold")
    for split in tables:
        grid.add_column(split, justify="right")
    grid.add_row(f"all {len(names)} classes", *(str(table.rows) for table in tables.values()))
    folded = len(names) - LARGEST - SMALLEST
    for position, name in enumerate(names):
        if everything or folded <= 1 or position < LARGEST or position >= LARGEST + folded:
            grid.add_row(Text(name), *(str(count[name]) for count in counts.values()))
        elif position == LARGEST:
            grid.add_row(Text(f"{folded} more: --classes", style="dim"))
    console.print()
    console.print(grid)


def print_levels(console: Console, levels: Mapping[str, GreyLevels]) -> None:
    """Means and standard deviations, and what to paste."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    grid.add_column("Grey values")
    for name in ("images", "mean", "std"):
        grid.add_column(name, justify="right")
    for name, level in levels.items():
        if level.images:
            grid.add_row(name, str(level.images), f"{level.mean:.4f}", f"{level.std:.4f}")
    console.print()
    console.print(grid)
    # Constants are fitted to data: those of the test images are not to be known.
    chosen = levels.get("train", levels["all"])
    if chosen.std > 0:
        console.print(f"--data.mean {chosen.mean:.4f} --data.std {chosen.std:.4f}")


def print_faults(console: Console, found: Found, limit: int) -> None:
    """How many of each kind, the first of them, and what to do."""
    console.print(f"\nFaults: {summary(found.audit.faults)}")
    for kind in FAULT_KINDS:
        of_kind = [fault for fault in found.audit.faults if fault.kind == kind]
        if of_kind:
            meaning, drop = WHAT_TO_DO[kind]
            advice = f"{meaning}; --data.audit drop {drop}" if found.droppable else meaning
            console.print(f"{kind} {len(of_kind)}: {advice}", style="red")
        for fault in of_kind[:limit]:
            console.print(f"  {describe(found.tables, fault)}")
        if len(of_kind) > limit:
            console.print(f"  {len(of_kind) - limit} more")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
