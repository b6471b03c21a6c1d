"""What every image datamodule shares: splits, loaders, and batches of normalised images made on the device."""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..functional import LabelKind
from .augmentation import AUGMENTATION_DRAWS, Augmentation
from .class_filter import filter_classes
from .few_shot import draw_shots
from .image_sources import ImageSplit, LoadedImages, SquareCrop, SquareImages, as_loaded
from .loading import TrainingLoader, evaluation_loader
from .noise_augmentation import NoiseAugmentation
from .sampling import EpochSampler, Sampling

Split = str
_FINGERPRINTED = 64


class ImageBatch(NamedTuple):
    """A batch of images and their classes, on the device.

    Args:
        images: ``[B, 3, S, S]`` float, normalised.
        labels: ``[B]`` int64, or ``[B, L]`` floats, 0 or 1, of several labels an image.
    """

    images: Tensor
    labels: Tensor


class ImageDataModule(LightningDataModule, ABC):
    """Splits to loaders to normalised batches; subclasses say where a split comes from.

    The loader delivers bytes: images at one size, which take no chance and can be cached. Crops, flips, noise and
    normalisation run on the device, a batch at once, from random numbers that are a function of the seed, the epoch and
    the image: the number of loader processes or ranks changes none of them.

    Args:
        batch_size: images a step.
        image_size: S, pixels a side.
        eval_resize: shorter side before the centre crop of S pixels in evaluation; ``None`` is the published 256 for
            224 (``8 / 7 * image_size``).
        crop_scale: share of the image's area that a training crop covers, smallest and largest.
        flip: probability of a left-right flip in training; 0 where left and right are different classes.
        mean: of the images in [0, 1], taken off each channel.
        std: of the images in [0, 1], divides each channel.
        num_workers: loader processes.
        shots: train on this many images of each class only (k-shot); ``None`` trains on all. Validation and test stay
            whole.
        shots_seed: of their draw; the same seed gives the same images in every process, whatever `seed_everything` is.
        noise: of scanners, on training images, such as ``{kind: rician}``; see `NoiseAugmentation`. ``None`` is none.
        stored_size: pixels a side that training images are brought to before the crop (shorter side resized, centre
            cut out), and cached at; ``None`` is ``image_size``. Larger keeps the detail of large originals in small
            crops.
        sampling: of training images: ``uniform``, each once an epoch, or ``balanced``, every class as often, with
            replacement.
        data_seed: of the order and the augmentation; ``None`` takes `seed_everything`'s.
        only_classes: patterns of class names such as ``MR__knee__*``: images of other classes are left out.
        without_classes: patterns of class names to leave out, for pretraining on what is to stay unseen.
    """

    def __init__(
        self,
        batch_size: int,
        image_size: int,
        eval_resize: int | None,
        crop_scale: tuple[float, float],
        flip: float,
        mean: float,
        std: float,
        num_workers: int,
        shots: int | None = None,
        shots_seed: int = 0,
        noise: NoiseAugmentation | None = None,
        stored_size: int | None = None,
        sampling: Sampling = "uniform",
        data_seed: int | None = None,
        only_classes: list[str] | None = None,
        without_classes: list[str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or image_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size and image_size must be at least 1 and num_workers at least 0, "
                f"got {batch_size}, {image_size} and {num_workers}"
            )
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1 or not 0 <= flip <= 1 or std <= 0:
            raise ValueError(
                "crop_scale must rise within (0, 1], flip lie in [0, 1] and std be positive, "
                f"got {crop_scale}, {flip} and {std}"
            )
        if (shots is not None and shots < 1) or not 0 <= shots_seed < 2**63:
            raise ValueError(
                "shots must be at least 1 image a class, or null to train on all, and shots_seed at least 0, "
                f"got {shots} and {shots_seed}"
            )
        if (stored_size is not None and stored_size < 1) or (data_seed is not None and data_seed < 0):
            raise ValueError(
                f"stored_size must be at least 1 and data_seed at least 0, or null, got {stored_size} and {data_seed}"
            )
        self.shots, self.shots_seed = shots, shots_seed
        self.batch_size, self.image_size, self.num_workers = batch_size, image_size, num_workers
        self.mean, self.std = mean, std
        self.sampling, self.data_seed = sampling, data_seed
        self.only_classes, self.without_classes = only_classes, without_classes
        self.augmentation = Augmentation(image_size, crop_scale, flip, noise)
        resize = eval_resize if eval_resize is not None else round(image_size * 8 / 7)
        stored = stored_size if stored_size is not None else image_size
        self._train_square, self._eval_square = SquareCrop(stored, stored), SquareCrop(resize, image_size)
        self._splits: dict[Split, ImageSplit] = {}

    @abstractmethod
    def read_class_names(self) -> list[str]:
        """Names of all classes of the data, in the order of the labels that `read_split` gives."""

    @abstractmethod
    def read_split(self, split: Split) -> ImageSplit:
        """The split ``train``, ``val`` or ``test``, of all classes."""

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return filter_classes(self._all_class_names, self.only_classes, self.without_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes, or of labels where an image has several."""
        return len(self.class_names)

    @property
    def label_kind(self) -> LabelKind:
        """What the labels are."""
        return "single"

    @property
    def class_groups(self) -> dict[str, list[str]]:
        """Ways to group the classes for reports, each with the group of every class: ``{"modality": ["CT", ...]}``."""
        return {}

    def class_counts(self) -> Tensor:
        """``[num_classes]`` int64: training images of each class, or with each label."""
        labels = self.split("train").labels
        return labels.bincount(minlength=self.num_classes) if labels.dim() == 1 else labels.long().sum(dim=0)

    def fingerprint(self) -> dict[str, str]:
        """A digest of each split that has been read: class names, all labels, and the pixels of some images."""
        return {name: self._digest(name) for name in self._splits}

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, once."""
        for split in splits_of(stage):
            if split not in self._splits:
                self._splits[split] = self._read(split)

    def split(self, name: Split) -> ImageSplit:
        """A split that `setup` has read."""
        return self._splits[name]

    def square(self, split: Split) -> SquareCrop:
        """What brings the split's images to one size before any chance: what a cache holds."""
        return self._train_square if split == "train" else self._eval_square

    def train_dataloader(self) -> TrainingLoader:
        """In a new order every epoch; the last, smaller batch is left out: batch normalisation suffers from it.

        With ``shots`` it stays, since of few images none is to spare, unless it is a single image.
        """
        split = self._splits["train"]
        images = SquareImages(split, self.square("train"), AUGMENTATION_DRAWS, self._seed)
        trainer = self.trainer
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        labels = split.labels if self.sampling == "balanced" else None
        drop_last = self._leaves_last_batch_out(math.ceil(len(images) / ranks))
        sampler = EpochSampler(images, self._seed, ranks, rank, labels, drop_last=drop_last)
        return TrainingLoader(images, sampler, self.batch_size, as_loaded, self.num_workers, drop_last)

    def val_dataloader(self) -> DataLoader[LoadedImages]:
        """In the order of the split."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[LoadedImages]:
        """In the order of the split."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[LoadedImages]:
        """The test split."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: LoadedImages, dataloader_idx: int) -> ImageBatch:
        """Bytes in one or three channels -> three augmented (in training) and normalised float channels."""
        images = batch.images.float()
        if batch.draws.shape[1] > 0:
            images = self.augmentation(images, batch.draws)
        images = images.div_(255).sub_(self.mean).div_(self.std)  # in place: new memory would cost more than the sums
        return ImageBatch(images.expand(-1, 3, -1, -1).contiguous(), batch.labels)

    @cached_property
    def _all_class_names(self) -> list[str]:
        return self.read_class_names()

    @property
    def _seed(self) -> int:
        # The variable is how Lightning hands `seed_everything`'s number to what it starts, ranks and samplers included.
        return self.data_seed if self.data_seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def _read(self, split: Split) -> ImageSplit:
        images = self._of_chosen_classes(self.read_split(split), split)
        if split != "train" or (self.shots is None and self.sampling == "uniform"):
            return images
        if self.label_kind == "multi":
            raise ValueError("shots and balanced sampling need one class an image; these have several labels each")
        if self.shots is None:
            return images
        return images.select(draw_shots(images.labels, self.class_names, self.shots, self.shots_seed))

    def _of_chosen_classes(self, images: ImageSplit, split: Split) -> ImageSplit:
        if self.class_names == self._all_class_names:
            return images
        if images.labels.dim() == 2:
            raise ValueError("only_classes and without_classes need one class an image; these have several labels each")
        positions = {name: position for position, name in enumerate(self.class_names)}
        new_labels = torch.tensor([positions.get(name, -1) for name in self._all_class_names])[images.labels]
        kept = (new_labels >= 0).nonzero().flatten()
        if len(kept) == 0:
            raise ValueError(
                f"the {split} split has no image of the classes that only_classes and without_classes leave"
            )
        return ImageSplit(new_labels[kept], images.select(kept).source)

    def _digest(self, name: Split) -> str:
        # Reading all pixels would take longer than an epoch; other labels or sizes tell most sets apart by themselves.
        split = self._splits[name]
        some = torch.linspace(0, split.images - 1, min(_FINGERPRINTED, split.images)).long()
        pixels = split.source.read_batch(some.tolist(), self.square(name))
        digest = hashlib.sha256(json.dumps([self.class_names, list(split.labels.shape)]).encode())
        for tensor in (split.labels, pixels):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _evaluation_loader(self, split: Split) -> DataLoader[LoadedImages]:
        images = SquareImages(self._splits[split], self.square(split))
        return evaluation_loader(images, self.batch_size, as_loaded, self.num_workers)

    def _leaves_last_batch_out(self, images: int) -> bool:
        return images >= self.batch_size and (self.shots is None or images % self.batch_size == 1)


def splits_of(stage: str) -> tuple[Split, ...]:
    """The splits that a Trainer's stage reads."""
    return {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",))


def encode_labels(names: Sequence[str], class_names: Sequence[str], source: str) -> Tensor:
    """Labels by name -> ``[N]`` int64 positions in ``class_names``.

    Raises:
        ValueError: for a label that is no class.
    """
    positions = {name: position for position, name in enumerate(class_names)}
    unknown = sorted(set(names) - set(positions))
    if unknown:
        raise ValueError(
            f"{source} has labels that the training split lacks: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}; a classifier cannot learn them, so take these rows out"
        )
    return torch.tensor([positions[name] for name in names], dtype=torch.int64)
