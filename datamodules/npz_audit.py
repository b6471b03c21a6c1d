"""The audit of images that lie in an npz file, laid out as MedMNIST's: tables and records without any files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .image_table import ImageTable
from .layouts import SPLITS
from .manifest import FileRecord, Manifest
from .medmnist_files import check_images, read_array, read_labels
from .scanning import record_pixels


class NpzImages(NamedTuple):
    """What an npz holds.

    Args:
        tables: by split; an image is called ``train_images[7]``, and has its numbers for a label.
        manifest: a record of each.
        description: one line.
    """

    tables: dict[str, ImageTable]
    manifest: Manifest
    description: str


def read_npz(npz: Path) -> NpzImages:
    """Look at all images of an npz, which is read whole, a split at a time.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none like MedMNIST's.
    """
    tables: dict[str, ImageTable] = {}
    manifest: Manifest = {}
    for split in SPLITS:
        labels = read_labels(npz, split)
        check_images(npz, split, len(labels))
        key = f"{split}_images"
        images = read_array(npz, key)
        files = [f"{key}[{number}]" for number in range(len(images))]
        manifest |= {file: _record(file, image) for file, image in zip(files, images, strict=True)}
        tables[split] = ImageTable(npz.name, files, [_label(row) for row in labels])
    counts = ", ".join(f"{split} {table.rows}" for split, table in tables.items())
    classes = len({label for table in tables.values() for label in table.labels})
    what = "combinations of labels" if labels.ndim == 2 else "classes"
    return NpzImages(tables, manifest, f"{npz}: arrays like MedMNIST's; {classes} {what}; images: {counts}")


def _record(file: str, image: NDArray[np.generic]) -> FileRecord:
    from PIL import Image

    return FileRecord(file, image.nbytes, 0, "", *record_pixels(Image.fromarray(image)))


def _label(row: NDArray[np.int64]) -> str:
    """``3``; of several labels those that hold: ``2+7``, or ``none``."""
    return str(row) if row.ndim == 0 else "+".join(map(str, row.nonzero()[0])) or "none"
