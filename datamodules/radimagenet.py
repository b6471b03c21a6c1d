"""RadImageNet: images named by CSV files, as published, or anything laid out like it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from .image_cache import cached_images
from .image_files import FileImages
from .image_sources import ImageSplit
from .image_table import ImageTable
from .images import ImageDataModule, Split, encode_labels
from .noise_augmentation import NoiseAugmentation

CSV_NAME = "RadiologyAI_{split}.csv"
COLUMNS = ("filename", "label")


class CsvRows(NamedTuple):
    """The rows of one split's CSV.

    Args:
        file: the CSV.
        filenames: of the images, relative to the root.
        labels: class names.
    """

    file: Path
    filenames: list[str]
    labels: list[str]


class RadImageNet(ImageDataModule):
    """RadImageNet by path (Mei et al. 2022; the data itself is by request, see radimagenet.com).

    The root holds ``RadiologyAI_{train,val,test}.csv`` with the columns ``filename`` (relative to the root, beginning
    with ``radiology_ai/``) and ``label``. Both published sets of CSVs, the official patient-wise one and the "refined"
    one, have these names. The classes are the sorted labels of the training CSV.

    Args:
        root: folder of the CSVs and images.
        batch_size: images a step.
        image_size: pixels a side.
        eval_resize: see `ImageDataModule`.
        crop_scale: see `ImageDataModule`.
        flip: see `ImageDataModule`.
        mean: the noise mask's published 0.3162.
        std: the noise mask's published 0.3213.
        cache: keep the decoded images in memory, for sets that fit; each loader process shares them.
        num_workers: loader processes.
        shots: see `ImageDataModule`.
        shots_seed: see `ImageDataModule`.
        noise: of scanners, on training images; see `NoiseAugmentation`.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 32,
        image_size: int = 224,
        eval_resize: int | None = None,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        mean: float = 0.3162,
        std: float = 0.3213,
        cache: bool = False,
        num_workers: int = 0,
        shots: int | None = None,
        shots_seed: int = 0,
        noise: NoiseAugmentation | None = None,
    ) -> None:
        super().__init__(
            batch_size, image_size, eval_resize, crop_scale, flip, mean, std, num_workers, shots, shots_seed, noise
        )
        self.root = Path(root)
        self.cache = cache

    def read_class_names(self) -> list[str]:
        """Sorted labels of the training CSV."""
        return sorted(set(read_csv(self.root, "train").labels))

    @property
    def class_groups(self) -> dict[str, list[str]]:
        """The classes by ``modality`` (CT, MR, US) and by ``anatomy``, the published eleven; see `group_classes`."""
        return group_classes(read_csv(self.root, "train"), self.class_names)

    def read_split(self, split: Split) -> ImageSplit:
        """The images that the split's CSV names."""
        rows = read_csv(self.root, split)
        lines = list(range(2, len(rows.labels) + 2))  # the header is line 1
        images = FileImages(self.root, ImageTable(rows.file.name, rows.filenames, rows.labels, lines))
        labels = encode_labels(rows.labels, self._all_class_names, str(rows.file))
        if not self.cache:
            return ImageSplit(labels, images)
        hashes = [sha256((self.root / name).read_bytes()).hexdigest() for name in rows.filenames]
        square = self.square(split)
        return ImageSplit(labels, cached_images(images, square, hashes, self.root / ".tamis", split, self.num_workers))


def read_csv(root: Path, split: Split) -> CsvRows:
    """Read ``RadiologyAI_<split>.csv``.

    Raises:
        FileNotFoundError: if the root or the CSV is missing.
        ValueError: if a column is missing or there is no row.
    """
    file = root / CSV_NAME.format(split=split)
    if not file.is_file():
        missing = file if root.is_dir() else root
        raise FileNotFoundError(
            f"{missing} does not exist; RadImageNet's root holds {CSV_NAME.format(split='{train,val,test}')} "
            "and the folder radiology_ai"
        )
    with file.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        found = list(reader.fieldnames or [])
        if not set(COLUMNS) <= set(found):
            raise ValueError(
                f"{file} must have the columns {' and '.join(COLUMNS)}, found: {', '.join(found) or 'none'}"
            )
        rows = [(row["filename"], row["label"]) for row in reader]
    if not rows:
        raise ValueError(f"{file} names no image: the {split} split is empty")
    return CsvRows(file, [filename for filename, _ in rows], [label for _, label in rows])


def group_classes(rows: CsvRows, class_names: Sequence[str]) -> dict[str, list[str]]:
    """The modality and the anatomy of each class.

    The modality is the folder below ``radiology_ai``; a class with images in several has all of them, as in ``CT+MR``.
    The anatomy is what stands before the label's first hyphen, so that the abdomen is another one in CT (``abd``), MR
    (``mriabd``) and ultrasound (``usabd``). What is named otherwise is ``other``.

    Args:
        rows: images of every class.
        class_names: the classes in the order of their labels.

    Returns:
        ``{"modality": [...], "anatomy": [...]}`` with an entry a class, without a way that puts all into one group.
    """
    folders: dict[str, set[str]] = {name: set() for name in class_names}
    for filename, label in zip(rows.filenames, rows.labels, strict=True):
        top, modality, *below = *filename.split("/"), ""
        folders[label].add(modality if top == "radiology_ai" and len(below) > 1 else "other")
    groups = {
        "modality": ["+".join(sorted(folders[name])) for name in class_names],
        "anatomy": [name.split("-")[0] if "-" in name else "other" for name in class_names],
    }
    return {way: of_class for way, of_class in groups.items() if len(set(of_class)) > 1}
