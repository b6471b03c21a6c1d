"""What training does to a batch of images: crop, flip and noise, made of random numbers that the loader drew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional.crops import BOX_DRAWS, crop_and_resize, crop_boxes
from .noise_augmentation import NOISE_DRAWS, NoiseAugmentation

#: Width over height of a crop, as torchvision has it.
RATIO = (3 / 4, 4 / 3)
_FLIP = BOX_DRAWS
#: Random numbers an image: the box, the flip, the noise. All are drawn whatever is used, so that turning one kind of
#: augmentation off leaves the others as they were.
AUGMENTATION_DRAWS = BOX_DRAWS + 1 + NOISE_DRAWS


@dataclass(frozen=True)
class Augmentation:
    """Random crop, flip and noise of a whole batch, wherever it lies.

    Args:
        size: pixels a side of the result.
        crop_scale: share of the image's area that a crop covers, smallest and largest.
        flip: probability of a left-right flip.
        noise: of scanners, after crop and flip.
    """

    size: int
    crop_scale: tuple[float, float]
    flip: float
    noise: NoiseAugmentation | None = None

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """``[B, C, S, S]`` from 0 to 255 -> ``[B, C, size, size]`` fp32 of the same scale.

        Args:
            images: square.
            draws: ``[B, AUGMENTATION_DRAWS]`` uniform in [0, 1).
        """
        boxes = crop_boxes(draws[:, :BOX_DRAWS], images.shape[-1], self.crop_scale, RATIO)
        cropped = crop_and_resize(images.float(), boxes, self.size)
        turned = (draws[:, _FLIP] < self.flip).view(-1, 1, 1, 1)
        flipped = torch.where(turned, cropped.flip(-1), cropped)
        return flipped if self.noise is None else self.noise(flipped, draws[:, _FLIP + 1 :])
