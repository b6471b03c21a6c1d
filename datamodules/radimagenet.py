"""RadImageNet as it lies on disk, or anything laid out like it: CSVs, the Refined tree, plain class folders."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from .auditing import AuditPolicy, audit_images, audited_tables, known_manifest
from .faults import Fault
from .image_cache import cached_images
from .image_files import Color, FileImages
from .image_sources import ImageSplit
from .image_table import ImageTable
from .images import ImageDataModule, Split, encode_labels, splits_of
from .layouts import Layout, read_layout
from .manifest import Manifest, content_hashes, manifest_folder
from .noise_augmentation import NoiseAugmentation
from .radimagenet_classes import choose_classes, class_columns
from .sampling import Sampling
from .scanning import update_manifest


class RadImageNet(ImageDataModule):
    """RadImageNet by path (Mei et al. 2022; the data itself is by request, see radimagenet.com).

    What the root holds is found by looking: ``RadiologyAI_{train,val,test}.csv`` with the columns ``filename`` and
    ``label`` over ``radiology_ai/``, as published; the Refined tree ``train/CT__abd__normal/...``; or a folder a class
    below ``train``, ``val`` and ``test``. See `tamis.datamodules.layouts` for what else, and for sets without splits.

    Args:
        root: folder of the CSVs and images.
        batch_size: images a step.
        image_size: pixels a side.
        eval_resize: see `ImageDataModule`.
        crop_scale: see `ImageDataModule`.
        flip: see `ImageDataModule`.
        mean: the noise mask's published 0.3162; ``python -m tamis.datamodules.audit ROOT`` measures yours.
        std: the noise mask's published 0.3213.
        cache: decode every image once and keep it, at one size, in an array on disk that all loader processes and ranks
            map: 68 GB for RadImageNet's 1.35 M at 224 pixels.
        num_workers: loader processes.
        shots: see `ImageDataModule`.
        shots_seed: see `ImageDataModule`.
        noise: of scanners, on training images; see `NoiseAugmentation`.
        stored_size: see `ImageDataModule`.
        sampling: see `ImageDataModule`.
        data_seed: see `ImageDataModule`.
        only_classes: see `ImageDataModule`.
        without_classes: see `ImageDataModule`.
        audit: look at every file before training. ``keep`` only reports faults, ``drop`` leaves faulty images out,
            ``raise`` stops; ``off`` does not look. The first time reads everything, later ones only what has changed.
        cache_dir: where the audit's manifest and the cache lie; ``None`` is ``.tamis`` in the root.
        color: ``grey`` decodes to one channel, which the network gets three times, as RadImageNet's files hold it;
            ``rgb`` keeps colours.
        intensity_range: of DICOM and NIfTI, smallest and largest value shown, such as -160 and 240 Hounsfield units;
            ``None`` takes each image's 1st and 99th percentile.
        class_list: ``pinned`` is RadImageNet's 165 classes in a fixed order, whatever a split lacks; ``found`` those of
            the training split, sorted; ``auto`` pins them if all that are found are among them.
        group_column: column of the CSV that no split tears apart; ``None`` looks for a patient's.
        split_shares: shares of train, val and test where the data has no splits.
        split_seed: of these.
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
        stored_size: int | None = None,
        sampling: Sampling = "uniform",
        data_seed: int | None = None,
        only_classes: list[str] | None = None,
        without_classes: list[str] | None = None,
        audit: Literal["off"] | AuditPolicy = "off",
        cache_dir: str | None = None,
        color: Color = "grey",
        intensity_range: tuple[float, float] | None = None,
        class_list: Literal["auto", "pinned", "found"] = "auto",
        group_column: str | None = None,
        split_shares: tuple[float, float, float] = (0.75, 0.1, 0.15),
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size,
            image_size,
            eval_resize,
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
        if intensity_range is not None and not intensity_range[0] < intensity_range[1]:
            raise ValueError(f"intensity_range must rise, got {intensity_range}")
        self.root, self.cache, self.audit = Path(root), cache, audit
        self.cache_dir = manifest_folder(self.root, Path(cache_dir) if cache_dir is not None else None)
        self.color: Color = color
        self.intensity_range = intensity_range
        self.class_list: Literal["auto", "pinned", "found"] = class_list
        self.group_column, self.split_shares, self.split_seed = group_column, split_shares, split_seed

    def prepare_data(self) -> None:
        """Audit and cache, on one process of each machine; without a Trainer, for all splits."""
        faults: list[Fault] = []
        if self.audit != "off":
            faults, self._manifest = audit_images(self.root, self.layout.tables, self.cache_dir, self._threads)
        elif self.cache:
            files = [file for table in self.layout.tables.values() for file in table.files]
            self._manifest = update_manifest(self.root, files, self.cache_dir, self._threads)
        # To refuse faults is for `setup`, where every rank does: an error here would leave the others waiting.
        if self.cache and not (self.audit == "raise" and faults):
            stage = None if self.trainer is None else self.trainer.state.fn
            for split in tuple(self.tables) if stage is None else splits_of(stage.value):
                self.read_split(split)
        self._forget_manifest()

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, once."""
        super().setup(stage)
        self._forget_manifest()

    @cached_property
    def layout(self) -> Layout:
        """What the root holds."""
        layout = read_layout(self.root, self.group_column, self.split_shares, self.split_seed)
        rank_zero_info(layout.description)
        for note in layout.notes:
            rank_zero_warn(note)
        return layout

    @cached_property
    def tables(self) -> dict[Split, ImageTable]:
        """The rows of each split, without those that the audit drops."""
        if self.audit == "off":
            return self.layout.tables
        tables, manifest = self.layout.tables, self._manifest
        return audited_tables(self.root, tables, self.audit, self.cache_dir, self._threads, manifest)

    def read_class_names(self) -> list[str]:
        """As ``class_list`` says."""
        found = set(self._table("train").labels)
        names = choose_classes(sorted(found), self.class_list)
        if len(names) > len(found):
            rank_zero_info(
                f"labels are RadImageNet's {len(names)} classes in their fixed order, {len(found)} of them with images "
                "to train on; class_list: found takes these alone"
            )
        return names

    @property
    def class_groups(self) -> dict[str, list[str]]:
        """RadImageNet's classes by modality and anatomy; pathologies are too many to report on."""
        columns = class_columns(self.class_names)
        return {way: columns[way] for way in ("modality", "anatomy") if way in columns}

    def read_split(self, split: Split) -> ImageSplit:
        """The split's files, or the cache of them."""
        table = self._table(split)
        labels = encode_labels(table.labels, self._all_class_names, table.source)
        files = FileImages(self.root, table, self.color, self.intensity_range)
        if not self.cache:
            return ImageSplit(labels, files)
        hashes = content_hashes(self._manifest, table.files)
        return ImageSplit(
            labels, cached_images(files, self.square(split), hashes, self.cache_dir, split, self._threads)
        )

    @cached_property
    def _manifest(self) -> Manifest:
        return known_manifest(self.root, self.layout.tables, self.cache_dir, self._threads)

    def _forget_manifest(self) -> None:
        # Of a million files it takes a gigabyte, and is of no use while training.
        self.__dict__.pop("_manifest", None)

    @property
    def _threads(self) -> int:
        return max(1, self.num_workers)

    def _table(self, split: Split) -> ImageTable:
        self.layout.table(split)  # says what is missing, and where
        return self.tables[split]
