"""MedMNIST (Yang et al. 2023): its npz files, anything saved in their layout, and several of them as one problem."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from ..functional import LabelKind
from .image_sources import ImageSplit
from .images import ImageDataModule, Split
from .medmnist_download import ZENODO, download
from .medmnist_npz import MedMNISTFile
from .medmnist_sets import OfficialFile, official_file
from .merged_images import MergedImages
from .noise_augmentation import NoiseAugmentation
from .sampling import Sampling


class MedMNIST(ImageDataModule):
    """2D sets of MedMNIST: ``{train,val,test}_{images,labels}`` in an npz, grey or RGB, one label an image or several.

    Several sets make one problem: the classes of the second follow those of the first, and are called
    ``organamnist:liver``. To keep a whole set out of pretraining, leave it out of ``path``.

    Args:
        path: an npz, or the name of an official file such as ``breastmnist`` (28 pixels) or ``breastmnist_64``, which
            is looked for in ``download_root``; or a list of these.
        batch_size: images a step.
        image_size: pixels a side; the stored 28 (or 64, 128, 224) are resized to it.
        eval_resize: see `ImageDataModule`; ``None`` is ``image_size``: these images are centred already.
        crop_scale: see `ImageDataModule`.
        flip: see `ImageDataModule`; 0 for OrganMNIST, whose left and right kidneys are two classes.
        mean: MedMNIST's own .5.
        std: MedMNIST's own .5.
        num_workers: loader processes.
        shots: see `ImageDataModule`.
        shots_seed: see `ImageDataModule`.
        noise: of scanners, on training images; see `NoiseAugmentation`.
        stored_size: see `ImageDataModule`.
        sampling: see `ImageDataModule`.
        data_seed: see `ImageDataModule`.
        only_classes: see `ImageDataModule`; of several sets, ``breastmnist:*`` is a whole one.
        without_classes: see `ImageDataModule`.
        ordinal: whether the classes of a single set have an order; ``None`` knows it of official sets: RetinaMNIST's.
        download: fetch official files that ``download_root`` lacks.
        download_root: the folder of the package ``medmnist``.
        download_url: where from, with ``{file}`` for the file's name.
        cache: extract the images into arrays on disk, once, that all loader processes and ranks map, instead of reading
            them into memory: for the large sizes, up to 16 GB a set.
        cache_dir: where these lie; ``None`` is ``.tamis`` beside each npz.
    """

    def __init__(
        self,
        path: list[str] | str,
        batch_size: int = 128,
        image_size: int = 28,
        eval_resize: int | None = None,
        crop_scale: tuple[float, float] = (0.6, 1.0),
        flip: float = 0.0,
        mean: float = 0.5,
        std: float = 0.5,
        num_workers: int = 0,
        shots: int | None = None,
        shots_seed: int = 0,
        noise: NoiseAugmentation | None = None,
        stored_size: int | None = None,
        sampling: Sampling = "uniform",
        data_seed: int | None = None,
        only_classes: list[str] | None = None,
        without_classes: list[str] | None = None,
        ordinal: bool | None = None,
        download: bool = False,
        download_root: str = "~/.medmnist",
        download_url: str = ZENODO,
        cache: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            image_size,
            eval_resize or image_size,
            crop_scale,
            flip,
            mean,
            std,
            num_workers,
            shots,
            shots_seed,
            noise,
            stored_size,
            sampling,
            data_seed,
            only_classes,
            without_classes,
        )
        self.paths = [path] if isinstance(path, str) else list(path)
        if not self.paths:
            raise ValueError("path is an empty list; name one npz at least")
        if "{file}" not in download_url:
            raise ValueError(f"download_url must have {{file}} where the file's name goes, got {download_url}")
        if ordinal is True and len(self.paths) > 1:
            raise ValueError("classes of several sets have no order in common; leave ordinal out, or give one path")
        self.ordinal, self.download = ordinal, download
        self.download_root, self.download_url = Path(download_root).expanduser(), download_url
        self.cache, self.cache_dir = cache, cache_dir

    def prepare_data(self) -> None:
        """Download what is missing if asked to, compare MD5s, and extract if there is a cache; on one process."""
        for path, official in self._places:
            if self.download and official is not None and not path.is_file():
                download(official, self.download_root, self.download_url)
        for file in self._files:
            file.check()

    @property
    def label_kind(self) -> LabelKind:
        """One class an image, or classes in an order, or several labels an image."""
        if len(self._files) > 1:
            return "single"
        kind = self._files[0].label_kind
        if kind == "multi" and self.ordinal:
            raise ValueError(f"{self._files[0].path} has several labels an image, which cannot be ordinal")
        if kind == "multi" or self.ordinal is None:
            return kind
        return "ordinal" if self.ordinal else "single"

    @property
    def class_groups(self) -> dict[str, list[str]]:
        """Of several sets, each class's ``dataset`` and, if any is known and they differ, its ``modality``."""
        if len(self.paths) == 1:
            return {}
        sets = dict(zip(self._all_class_names, self._set_of_each_class, strict=True))
        files = [sets[name] for name in self.class_names]
        groups = {
            "dataset": [file.name for file in files],
            "modality": ["other" if file.facts is None else file.facts.modality for file in files],
        }
        return {way: of_class for way, of_class in groups.items() if len(set(of_class)) > 1}

    def read_class_names(self) -> list[str]:
        """The official names, or the numbers from 0 to the largest training label; of several sets ``<set>:<name>``."""
        if len(self._files) == 1:
            return self._files[0].class_names
        return [f"{file.name}:{name}" for file in self._files for name in file.class_names]

    def read_split(self, split: Split) -> ImageSplit:
        """The split's arrays, in memory or mapped into it; of several sets one after the other."""
        splits = [file.read_split(split) for file in self._files]
        if len(splits) == 1:
            return splits[0]
        labels, offset = [], 0
        for file, part in zip(self._files, splits, strict=True):
            labels.append(part.labels + offset)
            offset += len(file.class_names)
        return ImageSplit(torch.cat(labels), MergedImages([part.source for part in splits]))

    @cached_property
    def _places(self) -> list[tuple[Path, OfficialFile | None]]:
        """Where each set lies, and which official file it is if it was asked for by name."""
        named = [official_file(path) for path in self.paths]
        return [
            (Path(path), None) if official is None else (self.download_root / official.name, official)
            for path, official in zip(self.paths, named, strict=True)
        ]

    @cached_property
    def _files(self) -> list[MedMNISTFile]:
        for path, official in self._places:
            if official is not None and not path.is_file():
                url = self.download_url.replace("{file}", official.name)
                raise FileNotFoundError(
                    f"{path} does not exist; set download to true to fetch {url}, or put the file there yourself "
                    f"(MD5 {official.md5}), or give the path of an npz"
                )
        files = [MedMNISTFile(path, self._cache_of(path)) for path, _ in self._places]
        if len(files) > 1:
            _check_mergeable(files)
        return files

    @property
    def _set_of_each_class(self) -> list[MedMNISTFile]:
        return [file for file in self._files for _ in file.class_names]

    def _cache_of(self, path: Path) -> Path | None:
        if not self.cache:
            return None
        return Path(self.cache_dir) if self.cache_dir is not None else path.parent / ".tamis"


def _check_mergeable(files: list[MedMNISTFile]) -> None:
    seen: dict[str, MedMNISTFile] = {}
    for file in files:
        if file.label_kind == "multi":
            raise ValueError(
                f"{file.path} has several labels an image, the others one class: no loss fits both; "
                "train on it alone, or leave it out of path"
            )
        if file.name in seen:
            raise ValueError(
                f"{seen[file.name].path} and {file.path} are both the set {file.name}, so their classes would have the "
                "same names; leave one out if they hold the same images, else rename a file"
            )
        seen[file.name] = file
