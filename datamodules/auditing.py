"""The audit as datamodules use it: one process looks at all files, every process leaves out the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from .faults import FAULT_KINDS, Fault, Row, drop_faults, dropped_rows, find_faults, lost_classes
from .image_table import ImageTable
from .manifest import MANIFEST_FILE, Manifest, manifest_folder, read_manifest, write_rows
from .scanning import update_manifest

#: ``keep`` trains on everything, ``drop`` leaves faulty images out, ``raise`` refuses to train on a set with faults.
AuditPolicy = Literal["keep", "drop", "raise"]
AUDIT_FILE = "audit.csv"
AUDIT_COLUMNS = ("fault", "kind", "split", "row", "slice", "file", "label", "where", "dropped", "text")
#: Files of each kind that a message names.
NAMED = 3


class Audit(NamedTuple):
    """What was found.

    Args:
        faults: all of them.
        manifest: a record of every file.
    """

    faults: list[Fault]
    manifest: Manifest


def audit_images(root: Path, tables: Mapping[str, ImageTable], folder: Path | None = None, workers: int = 1) -> Audit:
    """Look at every file that the tables name, write down what is wrong and log it: for ``prepare_data``.

    It changes no table and raises for no fault. That is for `audited_tables`, which every rank calls: an error in
    one process only would leave the others waiting.

    Args:
        root: what the files are relative to.
        tables: all splits; faults between splits cannot be seen in some of them.
        folder: where manifest and ``audit.csv`` are kept, one a root; by default ``.tamis`` in the root.
        workers: threads that read.

    Raises:
        OSError: if the folder cannot be written.
    """
    audit = examine_images(root, tables, folder, workers)
    place = manifest_folder(root, folder) / AUDIT_FILE
    rank_zero_info(f"audit: {summary(audit.faults)}{f'; each is in {place}' if audit.faults else ''}")
    return audit


def examine_images(root: Path, tables: Mapping[str, ImageTable], folder: Path | None = None, workers: int = 1) -> Audit:
    """`audit_images` without the log."""
    manifest = update_manifest(root, _files(tables), folder, workers)
    faults = find_faults(tables, manifest)
    place = manifest_folder(root, folder) / AUDIT_FILE
    if faults or place.is_file():
        try:
            write_rows(place, fault_rows(tables, faults), AUDIT_COLUMNS)
        except OSError as error:  # such as beside the finished manifest of a set that belongs to somebody else
            rank_zero_warn(f"audit: {AUDIT_FILE} was not written: {error}")
    return Audit(faults, manifest)


def known_manifest(
    root: Path, tables: Mapping[str, ImageTable], folder: Path | None = None, workers: int = 1
) -> Manifest:
    """The manifest as ``prepare_data`` left it: no image that it knows is looked at, not even for its time.

    Files that it does not know, because nothing was prepared, are.
    """
    manifest = read_manifest(manifest_folder(root, folder))
    if any(file not in manifest for table in tables.values() for file in table.files):
        return update_manifest(root, _files(tables), folder, workers)
    return manifest


def audited_tables(
    root: Path,
    tables: Mapping[str, ImageTable],
    policy: AuditPolicy,
    folder: Path | None = None,
    workers: int = 1,
    manifest: Manifest | None = None,
) -> dict[str, ImageTable]:
    """The tables that a policy leaves: for ``setup``, in every process.

    It is a function of the tables and the manifest (``None``: the `known_manifest`), so that all ranks have the same
    rows.

    Raises:
        ValueError: by the policy ``raise`` if there are faults; by ``drop`` if a split has none but faulty images.
    """
    if policy == "keep":
        return dict(tables)
    if manifest is None:
        manifest = known_manifest(root, tables, folder, workers)
    faults = find_faults(tables, manifest)
    if policy == "raise" and faults:
        raise ValueError(_refusal(root, manifest_folder(root, folder), tables, faults))
    kept = drop_faults(tables, faults)
    lost = lost_classes(tables, kept)
    if lost:
        rank_zero_warn(
            f"audit: without the faulty images these classes have none to train on: {', '.join(lost[:5])}"
            f"{' ...' if len(lost) > 5 else ''}; repair the files, or leave the classes out of all splits"
        )
    gone = {split: table.rows - kept[split].rows for split, table in tables.items()}
    if faults:
        rank_zero_info(f"audit: left out {', '.join(f'{count} of {split}' for split, count in gone.items() if count)}")
    return kept


def summary(faults: Sequence[Fault]) -> str:
    """One line: ``2 blank, 1 duplicate``."""
    counts = Counter(fault.kind for fault in faults)
    return ", ".join(f"{counts[kind]} {kind}" for kind in FAULT_KINDS if counts[kind]) or "no faults"


def fault_rows(tables: Mapping[str, ImageTable], faults: Sequence[Fault]) -> list[dict[str, object]]:
    """A line of ``audit.csv`` for each row of each fault; ``fault`` counts from 1, ``row`` from 0."""
    dropped = dropped_rows(faults)
    return [
        {
            "fault": number,
            "kind": fault.kind,
            "split": row.split,
            "row": row.row,
            "slice": _slice(tables[row.split], row),
            "file": file,
            "label": tables[row.split].labels[row.row],
            "where": tables[row.split].where(row.row),
            "dropped": "yes" if row in dropped else "no",
            "text": fault.text,
        }
        for number, fault in enumerate(faults, 1)
        for row, file in zip(fault.rows, fault.files, strict=True)
    ]


def describe(tables: Mapping[str, ImageTable], fault: Fault) -> str:
    """One line: the first rows, where each stands, and what is wrong."""
    named = [
        f"{file} ({tables[row.split].where(row.row)})"
        for file, row in list(zip(fault.files, fault.rows, strict=True))[:NAMED]
    ]
    more = f" and {len(fault.rows) - NAMED} more" if len(fault.rows) > NAMED else ""
    between = " and " if fault.kind == "group_in_two_splits" else " = "
    return f"{between.join(named)}{more}: {fault.text}"


def _files(tables: Mapping[str, ImageTable]) -> list[str]:
    return [file for table in tables.values() for file in table.files]


def _slice(table: ImageTable, row: Row) -> object:
    return "" if table.slices is None or table.slices[row.row] < 0 else table.slices[row.row]


def _refusal(root: Path, place: Path, tables: Mapping[str, ImageTable], faults: Sequence[Fault]) -> str:
    lines = [f"the images of {root} have faults: {summary(faults)}"]
    for kind in FAULT_KINDS:
        of_kind = [fault for fault in faults if fault.kind == kind]
        lines += [f"  {kind}: {describe(tables, fault)}" for fault in of_kind[:NAMED]]
        lines += [f"  {kind}: {len(of_kind) - NAMED} more"] if len(of_kind) > NAMED else []
    way_out = (
        "the policy is raise; drop leaves the faulty images out, keep trains on all. "
        f"What each file holds is in {place / MANIFEST_FILE}; `python -m tamis.datamodules.audit {root}` shows all"
    )
    return "\n".join([*lines, way_out])
