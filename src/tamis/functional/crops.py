"""Random crops of a whole batch at once: boxes from uniform numbers, and resampling as two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

#: Boxes that are tried for each image before the whole image is taken, as in torchvision's RandomResizedCrop.
ATTEMPTS = 10
#: Uniform numbers that a box takes: an area and a shape for each attempt, then the place of its top and its left.
BOX_DRAWS = 2 * ATTEMPTS + 2


def crop_boxes(draws: Tensor, size: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes of the random resized crop (Szegedy et al. 2015, section 6), as torchvision defines its distribution.

    An attempt draws the box's share of the area uniformly and its width over height log-uniformly; the first box that
    fits is placed uniformly. If none fits, the whole image is taken.

    Args:
        draws: ``[B, BOX_DRAWS]`` uniform in [0, 1).
        size: pixels a side of the square images.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height, on both sides of 1.

    Returns:
        ``[B, 4]`` int64: top, left, height and width in pixels.
    """
    area = (scale[0] + (scale[1] - scale[0]) * draws[:, :ATTEMPTS]) * size**2
    logs = torch.tensor(ratio, dtype=draws.dtype, device=draws.device).log()
    shape = (logs[0] + (logs[1] - logs[0]) * draws[:, ATTEMPTS : 2 * ATTEMPTS]).exp()
    tried = torch.stack(((area / shape).sqrt().round(), (area * shape).sqrt().round()), dim=-1)  # height, width
    fits = ((tried >= 1) & (tried <= size)).all(dim=-1)
    first = fits.int().argmax(dim=1)  # 0 where none fits
    chosen = tried[torch.arange(len(draws), device=draws.device), first]
    sides = torch.where(fits.any(dim=1, keepdim=True), chosen, torch.full_like(chosen, size)).long()
    corner = (draws[:, 2 * ATTEMPTS :] * (size - sides + 1)).long()
    return torch.cat((corner, sides), dim=1)


def crop_and_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Each image's box, resampled to ``size`` x ``size`` pixels, bilinear with antialiasing.

    The same numbers as cropping and resizing one by one with torchvision's ``resized_crop``, up to rounding.

    Args:
        images: ``[B, C, H, W]`` floats.
        boxes: ``[B, 4]``: top, left, height, width in pixels.
        size: pixels a side of the result.

    Returns:
        ``[B, C, size, size]``.
    """
    top, left, height, width = boxes.to(images.dtype).unbind(dim=1)
    rows = resampling_weights(top, height, images.shape[-2], size)
    columns = resampling_weights(left, width, images.shape[-1], size)
    return rows.unsqueeze(1) @ images @ columns.unsqueeze(1).mT


def resampling_weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """How much each pixel of an axis gives to each of ``size`` samples of the stretch from ``start``.

    Sample i lies at ``start + (i + .5) * length / size`` and takes a triangle of the pixels around it: one pixel to
    each side, or as many as a sample is wide where the stretch is shrunk, which is antialiasing. Pixels outside the
    stretch give nothing and the weights of a sample sum to 1.

    Args:
        start: ``[B]`` first pixel of the stretch.
        length: ``[B]`` pixels of the stretch, at least 1.
        pixels: of the whole axis.
        size: samples.

    Returns:
        ``[B, size, pixels]``.
    """
    step = (length / size).view(-1, 1, 1)
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    samples = start + (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * step
    centres = torch.arange(pixels, device=start.device, dtype=start.dtype) + 0.5
    weights = ((centres - samples).abs_() / -step.clamp(min=1)).add_(1).clamp_(min=0)
    weights *= (centres > start) & (centres < start + length)
    return weights / weights.sum(dim=-1, keepdim=True)
