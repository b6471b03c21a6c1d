"""MedMNIST npz files by path (Yang et al. 2023), and anything saved in their format."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .image_sources import ArrayImages, ImageSplit
from .images import ImageDataModule, Split
from .noise_augmentation import NoiseAugmentation


class MedMNIST(ImageDataModule):
    """One 2D single-label MedMNIST set: ``{train,val,test}_{images,labels}`` in an npz, grey or RGB.

    Args:
        path: the npz.
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
    """

    def __init__(
        self,
        path: str,
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
    ) -> None:
        resize = eval_resize or image_size
        super().__init__(
            batch_size, image_size, resize, crop_scale, flip, mean, std, num_workers, shots, shots_seed, noise
        )
        self.path = Path(path)

    def read_class_names(self) -> list[str]:
        """The integers from 0 to the largest training label: the file has no names."""
        return [str(label) for label in range(int(self._labels("train").max()) + 1)]

    def read_split(self, split: Split) -> ImageSplit:
        """The split's arrays, in memory."""
        images, labels = self._array(f"{split}_images"), self._labels(split)
        if len(images) != len(labels) or images.ndim not in (3, 4) or len(images) == 0:
            raise ValueError(
                f"{self.path}: the {split} split needs images [N, H, W] or [N, H, W, 3] and as many labels, "
                f"got images {images.shape} and {len(labels)} labels"
            )
        if labels.max() >= len(self._all_class_names):
            raise ValueError(
                f"{self.path}: {split}_labels has the class {int(labels.max())}, which the training split lacks "
                f"(it has {len(self._all_class_names)})"
            )
        return ImageSplit(torch.from_numpy(labels), ArrayImages(torch.from_numpy(images)))

    def _array(self, key: str) -> NDArray[np.generic]:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path} does not exist; give the npz of a MedMNIST set, such as organamnist.npz "
                "(https://doi.org/10.5281/zenodo.10519652)"
            )
        if not zipfile.is_zipfile(self.path):
            raise ValueError(f"{self.path} is no npz (or only part of one); download it again")
        with np.load(self.path) as arrays:
            if key not in arrays:
                raise ValueError(f"{self.path} lacks the array {key}; it has: {', '.join(arrays) or 'none'}")
            array: NDArray[np.generic] = arrays[key]
        return array

    def _labels(self, split: Split) -> NDArray[np.int64]:
        labels = self._array(f"{split}_labels")
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise ValueError(
                f"{self.path}: {split}_labels is {labels.shape}, several labels an image (ChestMNIST); "
                "only sets with one label an image are supported"
            )
        return labels.reshape(-1).astype(np.int64)
