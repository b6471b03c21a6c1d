"""``metrics.csv`` and ``timing.csv``: what a run logged, the same bytes for the same seed and configuration."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from .writing import append_whole, is_out_of_room, warn_out_of_room, write_whole

METRICS, TIMING = "metrics.csv", "timing.csv"
_TIMING = "timing/"
Row = dict[str, Any]
_Kind = tuple[int, frozenset[str]]


class MetricsFile(Logger):
    """Write metrics as CSV: one row for each time that the trainer logs, one column for each name.

    What begins with ``timing/`` goes to ``timing.csv``, everything else to ``metrics.csv``, so that the latter is equal
    byte for byte between runs of one seed and configuration. Rows are at the files' ends, whole, as soon as the trainer
    has logged them. A full disk costs a warning and no row: rows wait in memory for room.

    Over files of a run that is resumed, rows behind the checkpoint are dropped at the first write, those before it
    stay, and a row that is logged again (the same step and names) takes the place of the old one: a run that was
    killed and resumed leaves the same ``metrics.csv`` as one that was not.

    Args:
        run_dir: directory of the files; made at the first write if it is not there.
        keep_until: the last step, as the files' ``step`` column counts, that the checkpoint knows of. Rows from the
            first one with a higher step on are dropped. ``None`` keeps all.
    """

    def __init__(self, run_dir: str | Path, keep_until: int | None = None) -> None:
        super().__init__()
        self._run_dir = Path(run_dir)
        self._steps = 0  # logged without a step, which the trainer never does
        self._tables = (_Table(self._run_dir / METRICS, keep_until), _Table(self._run_dir / TIMING, keep_until))

    @property
    def name(self) -> str:
        """No folder of its own below the run directory."""
        return ""

    @property
    def version(self) -> str:
        """No folder of its own below the run directory."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self._run_dir)

    @property
    def log_dir(self) -> str:
        """The run directory."""
        return str(self._run_dir)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Take a row; the trainer calls `save` next."""
        step = self._steps if step is None else step
        self._steps = step + 1
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        timing = {name: value for name, value in values.items() if name.startswith(_TIMING)}
        others = {name: value for name, value in values.items() if name not in timing}
        for table, row in zip(self._tables, (others, timing), strict=True):
            if row.keys() - {"epoch"}:  # Lightning puts the epoch to whatever it logs
                table.pending.append({**row, "step": step})

    @rank_zero_only
    def save(self) -> None:
        """Bring the rows to the disk."""
        for table in self._tables:
            table.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the rows to the disk, or say how many are lost."""
        for table in self._tables:
            table.save()
            table.give_up()


class _Table:
    """One CSV file to which rows are added; a name that it has not seen makes it be written anew with its column."""

    def __init__(self, path: Path, keep_until: int | None) -> None:
        self.path = path
        self.pending: list[Row] = []
        self._warned = False
        rows, whole = read_rows(path)
        kept = _until(path, rows, keep_until)
        self._columns = _columns(kept)
        self._cut = len(kept) if len(kept) < len(rows) or not whole else None
        # Lightning logs a step's rows behind its checkpoint: these may be logged once more.
        self._again = {_kind(row) for row in kept if keep_until is not None and int(row["step"]) >= keep_until - 1}

    def save(self) -> None:
        if not self.pending:
            return
        try:
            self._write()
        except OSError as error:
            if not is_out_of_room(error):
                raise
            if not self._warned:
                warn_out_of_room(self.path, error, "its rows wait in memory until there is room.")
            self._warned = True

    def give_up(self) -> None:
        if self.pending:
            rank_zero_warn(f"{self.path} had no room to the end: its last {len(self.pending)} rows are lost.")
        self.pending = []

    def _write(self) -> None:
        columns = _columns([dict.fromkeys(self._columns, 0), *self.pending])
        if columns != self._columns or self._cut is not None or not self._again.isdisjoint(map(_kind, self.pending)):
            rows = read_rows(self.path)[0][: self._cut]
            for row in self.pending:
                self._add(rows, row)
            write_whole(self.path, _text(rows, columns, header=True))
        else:
            append_whole(self.path, _text(self.pending, columns, header=False).encode())
        self._again -= set(map(_kind, self.pending))
        self._columns, self._cut, self.pending = columns, None, []

    def _add(self, rows: list[Row], row: Row) -> None:
        """Put the row in the place of one that says the same of the same step, or behind all."""
        for number in range(len(rows) - 1, -1, -1) if _kind(row) in self._again else ():
            if _kind(rows[number]) == _kind(row):
                rows[number] = row
                return
        rows.append(row)


def read_rows(path: Path) -> tuple[list[Row], bool]:
    """The rows of a table without their empty cells, and whether its last line is whole (a dead machine's is not)."""
    data = path.read_bytes() if path.is_file() else b""
    text = data[: data.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    rows = [{name: cell for name, cell in row.items() if name and cell} for row in csv.DictReader(io.StringIO(text))]
    return rows, len(data) == data.rfind(b"\n") + 1


def _until(path: Path, rows: list[Row], keep_until: int | None) -> list[Row]:
    """The rows before the first one that is behind the step ``keep_until``."""
    for number, row in enumerate(rows):
        step = str(row.get("step"))
        if not step.lstrip("-").isdigit():
            raise ValueError(
                f"{path}, row {number + 1}: no step in it ({step}), so this is no file that a run of tamis has written "
                "and the run cannot go on in it. Repair it, move it away, or choose a new --run_dir."
            )
        if keep_until is not None and int(step) > keep_until:
            return rows[:number]
    return rows


def _columns(rows: Sequence[Row]) -> list[str]:
    """Names in alphabetical order: the order of a file must not hang on the order of events."""
    return sorted(set().union(*rows))


def _kind(row: Row) -> _Kind:
    return int(row["step"]), frozenset(row)


def _text(rows: Sequence[Row], columns: Sequence[str], *, header: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
