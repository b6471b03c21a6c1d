"""Mean and standard deviation of a set's grey values, from what its manifest knows: constants to normalise with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .image_table import ImageTable
from .manifest import FileRecord, Manifest
from .radimagenet_classes import CLASS_PARTS, MODALITIES, class_of_path


class GreyLevels(NamedTuple):
    """Of the grey values of some images, each weighing the same whatever its size, as after resizing.

    Args:
        images: how many.
        mean: in [0, 1].
        std: around it, over all pixels and not between images; in [0, 1].
    """

    images: int
    mean: float
    std: float


def pool_levels(records: Iterable[FileRecord]) -> GreyLevels:
    """The levels of all images together: the mean of their means, and sqrt(mean of mean squares - mean^2).

    Records of files that could not be read are left out. Of none, both numbers are nan.
    """
    readable = [record for record in records if not record.error]
    if not readable:
        return GreyLevels(0, math.nan, math.nan)
    mean = math.fsum(record.mean for record in readable) / len(readable)
    mean_square = math.fsum(record.mean_square for record in readable) / len(readable)
    return GreyLevels(len(readable), mean, math.sqrt(max(0.0, mean_square - mean**2)))


def measure_levels(tables: Mapping[str, ImageTable], manifest: Manifest) -> dict[str, GreyLevels]:
    """The levels of all images, of each split and of each modality if there are several."""
    groups: dict[str, list[FileRecord]] = {"all": []}
    modalities: dict[str, list[FileRecord]] = {}
    for split, table in tables.items():
        records = [manifest[file] for file in table.files]
        groups["all"] += records
        groups[split] = records
        for record, label in zip(records, table.labels, strict=True):
            modalities.setdefault(modality_of(record.file, label), []).append(record)
    if len(modalities) > 1:
        groups |= {name: modalities[name] for name in sorted(modalities)}
    return {name: pool_levels(records) for name, records in groups.items()}


def modality_of(file: str, label: str) -> str:
    """``CT``, ``MR`` or ``US`` as the class says, else as the folders do, else ``other``."""
    name = label if label in CLASS_PARTS else class_of_path(file)
    if name is not None:
        return CLASS_PARTS[name].modality
    return next((folder for folder in file.split("/")[:-1] if folder in MODALITIES), "other")
