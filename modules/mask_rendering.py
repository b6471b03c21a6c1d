"""From mask cells to masks: upsampling and blur as one fixed matrix, and what is done about the masks' brightness."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..functional import upsample_blur_matrix

MaskNormalisation = Literal["none", "unit_mean"]


class MaskRenderer(nn.Module):
    """``[B, G * G]`` cells -> ``[B, 1, S, S]`` masks: upsampled to the nearest cell, blurred, normalised.

    Args:
        grid: G, cells a side.
        kernel_size: odd number of taps of the Gaussian blur; 1 does not blur.
        sigma: of the blur, in pixels.
        normalisation: ``none`` leaves masks as published, with a mean near .5 that halves the image's contrast and that
            a policy learns to move first of all. ``unit_mean`` divides each mask by its mean over pixels.

    Raises:
        ValueError: for a kernel without a centre or an empty grid.
    """

    matrix: Tensor

    def __init__(self, grid: int, kernel_size: int, sigma: float, normalisation: MaskNormalisation = "none") -> None:
        super().__init__()
        if normalisation not in get_args(MaskNormalisation):
            raise ValueError(f"mask_normalisation must be none or unit_mean, got {normalisation!r}")
        # Any image that is large enough for grid and blur: what cannot fit any image is refused here.
        upsample_blur_matrix(grid, max(grid, kernel_size), kernel_size, sigma)
        self.grid, self.kernel_size, self.sigma = grid, kernel_size, sigma
        self.normalisation = normalisation
        # [S, G], made when the first image shows its size; not saved, because it follows from the options.
        self.register_buffer("matrix", torch.empty(0, grid), persistent=False)

    def prepare(self, size: int) -> None:
        """Make the matrix for images of ``size`` pixels a side.

        Raises:
            ValueError: if the grid or the blur is too large for them.
        """
        if self.matrix.shape[0] != size:
            # Trainer.validate, which may come first, runs in inference mode, whose tensors no graph may hold later.
            with torch.inference_mode(False):
                matrix = upsample_blur_matrix(self.grid, size, self.kernel_size, self.sigma)
            self.matrix = matrix.to(self.matrix.device)

    def forward(self, cells: Tensor, size: int) -> Tensor:
        """``[B, G * G]`` cells in fp32 -> ``[B, 1, size, size]``."""
        self.prepare(size)
        masks = self.matrix @ cells.view(-1, 1, self.grid, self.grid) @ self.matrix.T
        return masks / masks.mean(dim=(-2, -1), keepdim=True) if self.normalisation == "unit_mean" else masks


def reverse_gradient(tensor: Tensor) -> Tensor:
    """The same values with the gradient's sign turned: what minimises a loss behind it, maximises it before it."""
    return 2 * tensor.detach() - tensor


def deviation(masks: Tensor) -> Tensor:
    """``[B]`` standard deviation of each mask's pixels, a tenth of the time of ``torch.std``."""
    pixels = masks.flatten(1)
    centred = pixels - pixels.mean(dim=1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(centred, dim=1)
    return length / math.sqrt(pixels.shape[1] - 1)


@torch.no_grad()
def mask_statistics(cells: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """What is logged of a batch's masks, under ``rollout/`` names.

    Args:
        cells: ``[B, G * G]``.
        masks: ``[B, 1, S, S]`` rendered from them.
    """
    return {
        "rollout/cell_mean": cells.mean(),
        "rollout/mask_mean": masks.mean(),
        "rollout/mask_std": deviation(masks).mean(),
    }
