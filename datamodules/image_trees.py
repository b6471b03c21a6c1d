"""Folders that name the classes of the images in them: whole trees walked once, without a look into any file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .image_table import ImageTable
from .radimagenet_classes import MODALITIES, class_of_path

#: Ends of the names of images; what Pillow and MONAI's readers take. A README or Thumbs.db is no image.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    *(".dcm", ".dicom", ".nii", ".nii.gz", ".npy", ".mha", ".mhd", ".nrrd"),
)


class TreeTable(NamedTuple):
    """The images of a folder of classes.

    Args:
        table: the images, by class and name.
        notes: what the reader of the tree should be told.
    """

    table: ImageTable
    notes: list[str]


def read_tree(folder: Path, prefix: str = "") -> TreeTable:
    """The images below a folder of classes.

    The class is the folder below ``folder``, as ImageFolder has it; where these are modalities (``CT``, ``MR``,
    ``US``) it is RadImageNet's name of all folders, as in ``CT__abd__normal``. Hidden files and folders are skipped.

    Args:
        folder: holds a folder a class, or a modality.
        prefix: put before the file names, such as ``train/``.

    Raises:
        ValueError: if there is no image.
    """
    classes = visible_folders(folder)
    modalities = set(classes) <= set(MODALITIES)
    files: list[str] = []
    labels: list[str] = []
    notes: list[str] = []
    others = [name for name in _visible(folder)[1] if not is_image(name)]
    beside = [name for name in _visible(folder)[1] if is_image(name)]
    for name in classes:
        before = len(files)
        for below, images, strange in _walk(folder / name, name):
            files += [f"{prefix}{below}/{image}" for image in images]
            label = class_of_path(f"{below}/") or (below.replace("/", "__") if modalities else name)
            labels += [label] * len(images)
            others += [f"{below}/{file}" for file in strange]
        if len(files) == before:
            notes.append(f"{folder / name} holds no image; there is no such class")
    if beside:
        notes.append(f"{folder}: {len(beside)} images outside the folders of classes are skipped, such as {beside[0]}")
    if others:
        notes.append(f"{folder}: {len(others)} files that are no images are skipped, such as {others[0]}")
    if not files:
        raise ValueError(f"{folder} holds no image in a folder of a class; images end with {' '.join(IMAGE_SUFFIXES)}")
    return TreeTable(ImageTable(folder.name, files, labels), notes)


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def visible_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder that are not hidden, sorted."""
    return _visible(folder)[0]


def visible_files(folder: Path) -> list[str]:
    """The names of the files in a folder that are not hidden, sorted."""
    return _visible(folder)[1]


def _visible(folder: Path) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files)


def _walk(folder: Path, below: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder's place, its images and its other files, from the top down and in the order of the names."""
    folders, files = _visible(folder)
    images = [name for name in files if is_image(name)]
    yield below, images, [name for name in files if not is_image(name)] if len(images) < len(files) else []
    for name in folders:
        yield from _walk(folder / name, f"{below}/{name}")
