"""The noise mask: the published objective, and upsampling and blur as one linear map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def official_noise_objective(
    log_probs: Tensor,
    cross_entropy: Tensor,
    divide_factor: bool = False,
    whole: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The objective of the released noise-mask code: ``mean_i log sum_j p_ij * CE``, CE one number for the batch.

    It is *not* REINFORCE: the log of the sum of the cells' densities stands where the joint log-probability would, and
    every image gets the batch's cross-entropy. Through the product the classifier trains at ``mean_i logsumexp_j``
    times its learning rate (log M for a uniform mask: 8.3 on a 64 x 64 grid). Evaluated with logsumexp in fp32, where
    the released exp-sum-log overflows.

    Args:
        log_probs: ``[B, M]`` log-density of each of the M cells.
        cross_entropy: scalar (the batch mean), or ``[B]`` per image, which is averaged first.
        divide_factor: take the factor out of the classifier's gradient, which is then that of the plain cross-entropy;
            the policy's gradient stays as published.
        whole: makes of a mean over these rows that over the whole batch, of which other processes have the other rows.
            A product of two such means is no mean of products: the loss is then the whole batch's, and what the
            processes average, their gradients of it, is its gradient.

    Returns:
        The scalar loss, minimised by both networks.

    Raises:
        ValueError: if ``log_probs`` is not a matrix.
    """
    if log_probs.dim() != 2:
        raise ValueError(f"log_probs must be [B, M], got shape {tuple(log_probs.shape)}")
    score, cost = log_probs.float().logsumexp(dim=1).mean(), cross_entropy.mean()
    if not divide_factor and whole is None:
        return score * cost
    means = torch.stack([score.detach(), cost.detach().float()])
    all_score, all_cost = means if whole is None else whole(means)
    factor = 1.0 if divide_factor else all_score
    # The product's value, and each network's gradient by itself.
    loss: Tensor = all_score * all_cost + all_cost * (score - score.detach()) + factor * (cost - cost.detach())
    return loss


def upsample_blur_matrix(grid: int, size: int, kernel_size: int, sigma: float) -> Tensor:
    """The matrix A of `upsample_blur`: nearest upsampling of ``grid`` cells to ``size``, then Gaussian blur.

    Args:
        grid: cells a side, at most ``size``.
        size: pixels a side.
        kernel_size: odd number of taps, less than ``2 * size``; 1 does not blur.
        sigma: standard deviation of the Gaussian in pixels.

    Returns:
        ``[size, grid]`` fp32; each row sums to 1.

    Raises:
        ValueError: on an even kernel, a grid larger than the image, or a kernel that reflection cannot pad.
    """
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ValueError(f"kernel_size must be odd, so that the blur has a centre, got {kernel_size}")
    if not 1 <= grid <= size:
        raise ValueError(f"grid must lie between 1 and the image size {size}, got {grid}")
    if kernel_size // 2 >= size or sigma <= 0:
        raise ValueError(f"the blur needs kernel_size < 2 * size and sigma > 0, got {kernel_size}, {size}, {sigma}")
    upsample = F.interpolate(torch.eye(grid).unsqueeze(0), size=size, mode="nearest")  # [1, grid, size]
    taps = torch.arange(kernel_size) - (kernel_size - 1) / 2
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    padded = F.pad(upsample, (kernel_size // 2, kernel_size // 2), mode="reflect")
    blurred = F.conv1d(padded.transpose(0, 1), (kernel / kernel.sum()).view(1, 1, -1))  # [grid, 1, size]
    return blurred.squeeze(1).T.contiguous()


def upsample_blur(mask: Tensor, size: int, kernel_size: int, sigma: float) -> Tensor:
    """Nearest upsampling to ``size`` x ``size``, then Gaussian blur with reflection, as ``A m A^T``.

    Both steps are linear and separable, so one small matrix does them: the same numbers as ``interpolate`` followed by
    torchvision's ``gaussian_blur`` at a fraction of the cost. In a loop, keep `upsample_blur_matrix` and apply it
    yourself.

    Args:
        mask: ``[B, 1, G, G]``.
        size: pixels a side of the result.
        kernel_size: odd.
        sigma: in pixels.

    Returns:
        ``[B, 1, size, size]``.
    """
    matrix = upsample_blur_matrix(mask.shape[-1], size, kernel_size, sigma).to(mask)
    return matrix @ mask @ matrix.T
