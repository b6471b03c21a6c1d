"""One npz in MedMNIST's layout: what its labels mean, and its splits."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from ..functional import LabelKind
from .image_sources import ArrayImages, ImageSource, ImageSplit
from .medmnist_download import compare_md5
from .medmnist_files import (
    MappedArrayImages,
    check_images,
    extract_array,
    extracted,
    read_array,
    read_header,
    read_keys,
    read_labels,
)
from .medmnist_sets import OfficialFile, OfficialSet, official_file

IMAGES = ("train_images", "val_images", "test_images")


class MedMNISTFile:
    """A set in a file: ``{train,val,test}_{images,labels}``.

    A file is taken for an official one, with its names of classes, if its name is one and the number and shape of its
    images are right: to ask for the MD5 would let a file that was merely packed again lose its names, and would read
    all of it. `check` compares the MD5.

    Args:
        path: the npz.
        cache: folder to extract its images into, to map them into memory; ``None`` reads them into memory.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.path, self.cache = path, cache

    @cached_property
    def facts(self) -> OfficialSet | None:
        """Of the official set that this is; ``None`` if it is none."""
        named = official_file(self.path.stem)
        return named.facts if named is not None and self._looks_like(named) else None

    @property
    def name(self) -> str:
        """The official one without the size, or the file's."""
        return self.path.stem if self.facts is None else self.facts.flag

    @property
    def label_kind(self) -> LabelKind:
        """``multi`` by the labels' shape; ``ordinal`` can be known of official sets only."""
        if self._training_labels.ndim == 2:
            return "multi"
        return "ordinal" if self.facts is not None and self.facts.task == "ordinal" else "single"

    @cached_property
    def class_names(self) -> list[str]:
        """The official names, or the numbers from 0 to the largest training label."""
        if self.facts is not None:
            return list(self.facts.class_names)
        labels = self._training_labels
        classes = labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=-1)) + 1
        return [str(label) for label in range(classes)]

    def read_split(self, split: str) -> ImageSplit:
        """A split, whole.

        Raises:
            ValueError: if an array is missing or is not what it should be.
        """
        labels = self._labels(split)
        check_images(self.path, split, len(labels))
        self._check_labels(labels, split)
        numbers = torch.from_numpy(labels)
        return ImageSplit(numbers.float() if labels.ndim == 2 else numbers, self._images(f"{split}_images"))

    def check(self) -> None:
        """Say it of a file that is not official, and extract its images if there is a cache.

        The MD5 is compared whenever the file itself will be read; images that are extracted already come of a file
        that was compared then.
        """
        keys = [key for key in IMAGES if key in read_keys(self.path)]
        named = official_file(self.path.stem)
        if named is None:
            rank_zero_info(f"{self.path} is not named as a file of MedMNIST; its classes are {self._numbered}")
        elif self.facts is None:
            rank_zero_warn(
                f"{self.path} has the name of an official file, but not the number and shape of its images; "
                f"its classes are {self._numbered}"
            )
        elif self.cache is None or not all(extracted(self.path, key, self.cache).is_file() for key in keys):
            compare_md5(self.path, named)
        if self.cache is not None:
            for key in keys:
                extract_array(self.path, key, self.cache)

    @property
    def _numbered(self) -> str:
        return f"{self.class_names[0]} to {self.class_names[-1]}" if self.class_names else "none"

    def _looks_like(self, named: OfficialFile) -> bool:
        facts = named.facts
        colour = (3,) if facts.channels == 3 else ()
        found = read_keys(self.path)
        shapes = [read_header(self.path, key).shape if key in found else None for key in IMAGES]
        labels = self._training_labels
        width = labels.shape[1] if labels.ndim == 2 else 1
        several = len(facts.class_names) if facts.task == "multi-label" else 1
        return width == several and shapes == [(count, named.size, named.size, *colour) for count in facts.images]

    @cached_property
    def _training_labels(self) -> NDArray[np.int64]:
        return self._labels("train")

    def _labels(self, split: str) -> NDArray[np.int64]:
        return read_labels(self.path, split)

    def _images(self, key: str) -> ImageSource:
        if self.cache is not None:
            return MappedArrayImages(extract_array(self.path, key, self.cache))
        return ArrayImages(torch.from_numpy(read_array(self.path, key)))

    def _check_labels(self, labels: NDArray[np.int64], split: str) -> None:
        classes = len(self.class_names)
        several = self._training_labels.ndim == 2
        if labels.ndim != 1 + several or (several and labels.shape[1] != classes):
            raise ValueError(f"{self.path}: {split}_labels is {list(labels.shape)}, unlike the training split's labels")
        if several and labels.max() > 1:
            raise ValueError(
                f"{self.path}: {split}_labels of several labels an image must be 0 or 1, got {labels.max()}"
            )
        if not several and labels.max() >= classes:
            raise ValueError(
                f"{self.path}: {split}_labels has the class {labels.max()}, which the training split lacks: "
                f"the classes are {self._numbered if self.facts is None else f'the {classes} of {self.name}'}"
            )
