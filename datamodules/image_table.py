"""Which images a split has: a row each, whatever the layout on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ImageTable(NamedTuple):
    """One split's images as columns of equal length.

    Args:
        source: what named them, for messages: the CSV or the folder.
        files: paths relative to the root, with forward slashes.
        labels: class names.
        lines: of each row in the source, from 1, where it is a file of lines.
        slices: which slice along the last axis each row is, of volumes; ``None`` where every file is one image.
        groups: what must not be torn apart by a split, such as the patient; ``None`` where nobody says.
    """

    source: str
    files: list[str]
    labels: list[str]
    lines: list[int] | None = None
    slices: list[int] | None = None
    groups: list[str] | None = None

    @property
    def rows(self) -> int:
        """How many images (``len`` counts the columns of a tuple)."""
        return len(self.files)

    def select(self, rows: Sequence[int]) -> ImageTable:
        """The table of some rows, in their order."""
        return ImageTable(
            self.source,
            [self.files[row] for row in rows],
            [self.labels[row] for row in rows],
            None if self.lines is None else [self.lines[row] for row in rows],
            None if self.slices is None else [self.slices[row] for row in rows],
            None if self.groups is None else [self.groups[row] for row in rows],
        )

    def where(self, row: int) -> str:
        """What named the row: ``RadiologyAI_train.csv, line 7``."""
        return self.source if self.lines is None else f"{self.source}, line {self.lines[row]}"
