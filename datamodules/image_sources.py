"""Where pixels come from: something that reads images by their number, and the square that they are brought to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .sampling import SampleKey, augmentation_draws


@dataclass(frozen=True)
class SquareCrop:
    """What brings images of any shape to one size, without chance: the shorter side resized, the centre cut out.

    Args:
        resize: pixels of the shorter side.
        size: pixels a side of the centre.
    """

    resize: int
    size: int

    def __call__(self, images: Tensor) -> Tensor:
        """``[..., C, H, W]`` uint8 -> ``[..., C, size, size]`` uint8; images that are so already are returned."""
        if self.resize == self.size and images.shape[-2:] == (self.size, self.size):
            return images
        from torchvision.transforms.v2 import functional

        resized: Tensor = functional.resize(images, [self.resize], antialias=True)
        cut: Tensor = functional.center_crop(resized, [self.size, self.size])
        return cut


class ImageSource(ABC):
    """Images by their number, as stored."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """The image as stored, ``[C, H, W]`` uint8, C = 1 or 3 and the same for all."""

    def read_batch(self, indices: Sequence[int], square: SquareCrop) -> Tensor:
        """``[B, C, S, S]`` uint8."""
        return torch.stack([square(self.read(index)) for index in indices])


class ArrayImages(ImageSource):
    """Images held in one array.

    Args:
        images: ``[N, H, W]`` or ``[N, H, W, 3]`` uint8.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images.unsqueeze(1) if images.dim() == 3 else images.movedim(-1, 1)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def read(self, index: int) -> Tensor:
        """``[1, H, W]`` or ``[3, H, W]`` uint8."""
        return self.images[index]

    def read_batch(self, indices: Sequence[int], square: SquareCrop) -> Tensor:
        """``[B, C, S, S]`` uint8, all at once."""
        return square(self.images[torch.as_tensor(indices)])


class SelectedImages(ImageSource):
    """Some images of another source.

    Args:
        images: the whole source.
        positions: ``[R]`` int64, of the images in it.
    """

    def __init__(self, images: ImageSource, positions: Tensor) -> None:
        self.images, self.positions = images, positions

    def __len__(self) -> int:
        """R."""
        return len(self.positions)

    def read(self, index: int) -> Tensor:
        """As the whole source has it."""
        return self.images.read(int(self.positions[index]))

    def read_batch(self, indices: Sequence[int], square: SquareCrop) -> Tensor:
        """As the whole source reads them."""
        return self.images.read_batch(self.positions[torch.as_tensor(indices)].tolist(), square)


class ImageSplit(NamedTuple):
    """One split: its labels and where its pixels come from.

    Args:
        labels: ``[N]`` int64, or ``[N, L]`` floats of several labels an image.
        source: of the N images.
    """

    labels: Tensor
    source: ImageSource

    @property
    def images(self) -> int:
        """N (``len`` counts the fields of a tuple)."""
        return len(self.labels)

    def select(self, positions: Tensor) -> ImageSplit:
        """The split of the images at ``[R]`` positions, in their order."""
        return ImageSplit(self.labels[positions], SelectedImages(self.source, positions))


class LoadedImages(NamedTuple):
    """A batch as the loader's processes make it.

    Args:
        images: ``[B, C, S, S]`` uint8.
        labels: ``[B]`` int64, or ``[B, L]`` floats.
        draws: ``[B, D]`` fp32 in [0, 1), what the augmentation is made of; D = 0 where there is none.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor


class SquareImages(Dataset[LoadedImages]):
    """A split as the loader reads it: a batch at once, at one size, with the random numbers of its augmentation.

    Args:
        split: labels and source.
        square: what brings the images to one size.
        draws: random numbers an image; 0 without augmentation.
        seed: of these.
    """

    def __init__(self, split: ImageSplit, square: SquareCrop, draws: int = 0, seed: int = 0) -> None:
        self.split, self.square, self.draws, self.seed = split, square, draws, seed

    def __len__(self) -> int:
        """Number of images."""
        return self.split.images

    def __getitem__(self, key: int | SampleKey) -> LoadedImages:
        """A batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> LoadedImages:
        """A batch; a plain number is that image in epoch 0."""
        known = [key if isinstance(key, SampleKey) else SampleKey(0, key) for key in keys]
        indices = [key.image for key in known]
        return LoadedImages(
            self.split.source.read_batch(indices, self.square),
            self.split.labels[indices],
            augmentation_draws(known, self.seed, self.draws),
        )


def as_loaded(batch: LoadedImages) -> LoadedImages:
    """The loader's collate function: `SquareImages` makes whole batches."""
    return batch
