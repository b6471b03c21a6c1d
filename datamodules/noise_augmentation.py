"""Noise of medical scanners as augmentation: the controls against which a learned noise mask has to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from monai.transforms.transform import RandomizableTransform

NoiseKind = Literal["gaussian", "rician", "gibbs", "k_space_spike"]
#: Random numbers an image: whether it gets noise, how strong, and the seed of MONAI's transform.
NOISE_DRAWS = 3
#: Ranges in which each kind changes a phantom by a standard deviation of .08 of the full range, averaged over images:
#: what uniform masks of the quickstart's 8 x 8 cells do to it, their mean brightness divided out.
DEFAULT_STRENGTHS: dict[NoiseKind, tuple[float, float]] = {
    "gaussian": (0.0, 0.16),
    "rician": (0.0, 0.165),
    "gibbs": (0.8, 0.95),
    "k_space_spike": (0.0, 0.16),
}


@dataclass(frozen=True)
class NoiseAugmentation:
    """One of MONAI's noise transforms on each training image, by itself; evaluation never sees it.

    It acts on the image in [0, 1], after crop and flip and before normalisation: Rician noise is that of magnitudes,
    which are not negative, and the k-space is that of the image. Nothing is clipped, since clipping would give Gaussian
    noise a mean in dark regions. Its random numbers are the loader's, as those of the crops are. MONAI's transforms are
    made for single images, so this part of the augmentation runs image by image.

    Args:
        kind: ``gaussian``: independent noise of mean 0 on each pixel. ``rician``: the magnitude of the image with
            Gaussian noise in its real and its imaginary part, as in MR; it brightens dark regions. ``gibbs``: the
            k-space beyond a radius is cut off, which blurs and rings at edges. ``k_space_spike``: one point of the
            k-space is set to a large value, which lays stripes over the image.
        probability: that an image gets noise.
        strength: smallest and largest, between which each image draws its own uniformly; two equal numbers fix it.
            Standard deviation as a share of the full range for ``gaussian``, ``rician`` (of each part) and
            ``k_space_spike`` (of the stripes; a spike weaker than the component it replaces weakens that instead); for
            ``gibbs`` MONAI's alpha, below 1, where the radius is ``1 - alpha`` times the distance of the k-space's
            corner. 0 leaves the image as it is. ``None`` takes the kind's default, in which the four change a phantom
            as much as a random mask does.

    Raises:
        ValueError: for an unknown kind, a probability outside [0, 1], or strengths that do not rise within their range.
    """

    kind: NoiseKind
    probability: float = 1.0
    strength: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(NoiseKind):
            raise ValueError(f"the noise's kind must be one of {', '.join(get_args(NoiseKind))}, got {self.kind!r}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"the noise's probability must lie in [0, 1], got {self.probability}")
        low, high = self.strength_range
        if not 0 <= low <= high < (1 if self.kind == "gibbs" else math.inf):
            rule = "0 <= low <= high < 1" if self.kind == "gibbs" else "0 <= low <= high"
            raise ValueError(f"the strength of {self.kind} noise must be two numbers with {rule}, got {low} and {high}")

    @property
    def strength_range(self) -> tuple[float, float]:
        """Smallest and largest strength."""
        return DEFAULT_STRENGTHS[self.kind] if self.strength is None else self.strength

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """``[B, C, S, S]`` fp32 from 0 to 255 -> the same, and beyond with noise; an image's channels share a spike.

        Args:
            images: the batch.
            draws: ``[B, NOISE_DRAWS]`` uniform in [0, 1): whether, how strong, and the seed of MONAI's transform.
        """
        rows = zip(images, draws.tolist(), strict=True)
        return torch.stack([self._noisy(image, *numbers) for image, numbers in rows])

    def _noisy(self, image: Tensor, chance: float, share: float, seed: float) -> Tensor:
        low, high = self.strength_range
        strength = low + (high - low) * share
        if chance >= self.probability or strength == 0:
            return image
        transform = build_transform(self.kind, strength, image.shape[-2] * image.shape[-1])
        transform.set_random_state(int(seed * 2**31))  # MONAI draws from NumPy, which no seed of torch's reaches
        noisy: Tensor = transform(image / 255)
        return noisy.as_subclass(Tensor) * 255  # MONAI's own tensors carry metadata along


def build_transform(kind: NoiseKind, strength: float, pixels: int) -> RandomizableTransform:
    """MONAI's transform, certain to act and of one strength, for images in [0, 1].

    Args:
        kind: of the noise.
        strength: see `NoiseAugmentation`; above 0.
        pixels: of a channel.
    """
    import monai.transforms.intensity.array as monai  # seconds to import

    if kind == "gaussian":
        return monai.RandGaussianNoise(prob=1.0, std=strength, sample_std=False)
    if kind == "rician":
        return monai.RandRicianNoise(prob=1.0, std=strength, sample_std=False)
    if kind == "gibbs":
        return monai.RandGibbsNoise(prob=1.0, alpha=(strength, strength))
    # A point of magnitude M and the real part of the inverse transform make a wave of amplitude M / pixels, whose
    # standard deviation is that over the square root of 2. MONAI takes the logarithm.
    log_magnitude = math.log(math.sqrt(2) * strength * pixels)
    return monai.RandKSpaceSpikeNoise(prob=1.0, intensity_range=(log_magnitude, log_magnitude), channel_wise=False)
