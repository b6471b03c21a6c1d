"""What every image datamodule shares: a labelled split, the published transforms, batches of normalised images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .few_shot import draw_shots
from .noise_augmentation import NoiseAugmentation

Split = str
Transform = Callable[[Tensor], Tensor]


class ImageBatch(NamedTuple):
    """A batch of images and their classes.

    Args:
        images: ``[B, C, S, S]`` uint8 as loaded, or floats of the same scale where noise was added; ``[B, 3, S, S]``
            float, normalised, once it is on the device.
        labels: ``[B]`` int64.
    """

    images: Tensor
    labels: Tensor


class ImageSplit(Dataset[ImageBatch], ABC):
    """One split: images of any size, brought to one size by ``transform`` as they are read.

    Args:
        labels: ``[N]`` int64.
        transform: uint8 image ``[C, H, W]`` -> ``[C, S, S]``, uint8 or floats of the same scale.
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


class FewShotImages(ImageSplit):
    """The rows of another split that a few-shot run may train on.

    Args:
        images: the whole split.
        positions: ``[R]`` int64, of their images in it.
    """

    def __init__(self, images: ImageSplit, positions: Tensor) -> None:
        super().__init__(images.labels[positions], images.transform)
        self.images, self.positions = images, positions

    def read(self, index: int) -> Tensor:
        """``[C, H, W]`` uint8, as the whole split has it."""
        return self.images.read(int(self.positions[index]))


class ImageDataModule(LightningDataModule, ABC):
    """Splits to loaders to normalised batches; subclasses say where a split comes from.

    Crops, flips and noise differ from image to image and run in the loader; conversion to float, the third channel
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
        shots: train on this many images of each class only (k-shot); ``None`` trains on all. Validation and test stay
            whole.
        shots_seed: of their draw; the same seed gives the same images in every process, whatever `seed_everything` is.
        noise: of scanners, on training images, such as ``{kind: rician}``; see `NoiseAugmentation`. ``None`` is none.
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
        self.shots, self.shots_seed, self.noise = shots, shots_seed, noise
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

    @property
    def class_groups(self) -> dict[str, list[str]]:
        """Ways to group the classes for reports, each with the group of every class: ``{"modality": ["CT", ...]}``."""
        return {}

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs, once."""
        needed = {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",))
        for split in needed:
            if split not in self._splits:
                self._splits[split] = (
                    self._read_train() if split == "train" else self.read_split(split, self._eval_transform())
                )

    def split(self, name: Split) -> ImageSplit:
        """A split that `setup` has read."""
        return self._splits[name]

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled; the last, smaller batch is left out, because batch normalisation suffers from it.

        With ``shots`` it stays, since of few images none is to spare, unless it is a single image.
        """
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
        """0 to 255 in one or three channels -> three normalised float channels."""
        images = (batch.images.float() / 255 - self.mean) / self.std
        return ImageBatch(images.expand(-1, 3, -1, -1).contiguous(), batch.labels)

    def _loader(self, split: Split) -> DataLoader[ImageBatch]:
        train = split == "train"
        dataset = self._splits[split]
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=train,
            drop_last=train and self._leaves_last_batch_out(len(dataset)),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _leaves_last_batch_out(self, images: int) -> bool:
        return images >= self.batch_size and (self.shots is None or images % self.batch_size == 1)

    def _read_train(self) -> ImageSplit:
        images = self.read_split("train", self._train_transform())
        if self.shots is None:
            return images
        return FewShotImages(images, draw_shots(images.labels, self.class_names, self.shots, self.shots_seed))

    def _train_transform(self) -> Transform:
        from torchvision.transforms import v2

        crop = v2.RandomResizedCrop(self.image_size, scale=self.crop_scale, antialias=True)
        steps: list[Transform] = [crop, v2.RandomHorizontalFlip(self.flip)]
        if self.noise is not None:
            self.noise.prepare()
            steps.append(self.noise)
        transform: Transform = v2.Compose(steps)
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
