"""What every image datamodule shares: a labelled split, the published transforms, batches of normalised images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Split = str
Transform = Callable[[Tensor], Tensor]


class ImageBatch(NamedTuple):
    """A batch of images and their classes.

    Args:
        images: ``[B, C, S, S]`` uint8 as loaded; ``[B, 3, S, S]`` float, normalised, once it is on the device.
        labels: ``[B]`` int64.
    """

    images: Tensor
    labels: Tensor


class ImageSplit(Dataset[ImageBatch], ABC):
    """One split: images of any size, brought to one size by ``transform`` as they are read.

    Args:
        labels: ``[N]`` int64.
        transform: uint8 image ``[C, H, W]`` -> ``[C, S, S]``.
    """

    def __init__(self, labels: Tensor, transform: Transform) -> None:
        self.labels = labels
        self.transform = transform

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """The image as stored, ``[C, H, W]`` uint8, C = 1 or 3."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> ImageBatch:
        """One image, transformed, and its class."""
        return ImageBatch(self.transform(self.read(index)), self.labels[index])


class ImageDataModule(LightningDataModule, ABC):
    """Splits to loaders to normalised batches; subclasses say where a split comes from.

    Crops and flips differ from image to image and run in the loader, on uint8; conversion to float, the third channel
    and normalisation run once a batch, on the device.

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
        self.batch_size, self.image_size, self.num_workers = batch_size, image_size, num_workers
        self.eval_resize = eval_resize if eval_resize is not None else round(image_size * 8 / 7)
        self.crop_scale, self.flip, self.mean, self.std = crop_scale, flip, mean, std
        self._splits: dict[Split, ImageSplit] = {}
        self._class_names: list[str] | None = None

    @abstractmethod
    def read_class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""

    @abstractmethod
    def read_split(self, split: Split, transform: Transform) -> ImageSplit:
        """The split ``train``, ``val`` or ``test``."""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        if self._class_names is None:
            self._class_names = self.read_class_names()
        return self._class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, once."""
        needed = {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",))
        for split in needed:
            if split not in self._splits:
                transform = self._train_transform() if split == "train" else self._eval_transform()
                self._splits[split] = self.read_split(split, transform)

    def split(self, name: Split) -> ImageSplit:
        """A split that `setup` has read."""
        return self._splits[name]

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled; the last, smaller batch is left out, because batch normalisation suffers from it."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """In the order of the split."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """In the order of the split."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The test split."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """uint8 of one or three channels -> three normalised float channels."""
        images = (batch.images.float() / 255 - self.mean) / self.std
        return ImageBatch(images.expand(-1, 3, -1, -1).contiguous(), batch.labels)

    def _loader(self, split: Split) -> DataLoader[ImageBatch]:
        train = split == "train"
        dataset = self._splits[split]
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=train,
            drop_last=train and len(dataset) >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _train_transform(self) -> Transform:
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(self.image_size, scale=self.crop_scale, antialias=True)
        transform: Transform = v2.Compose([crop, v2.RandomHorizontalFlip(self.flip)])
        return transform

    def _eval_transform(self) -> Transform:
        from torchvision.transforms import v2

        transform: Transform = v2.Compose([v2.Resize(self.eval_resize, antialias=True), v2.CenterCrop(self.image_size)])
        return transform


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
