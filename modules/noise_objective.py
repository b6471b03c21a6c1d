"""What the noise mask's policy and classifier can be trained to do, and what keeps a learning policy noisy."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .noise_policy import MaskDistribution

Objective = Literal["official", "reinforce", "pathwise", "random", "none"]
Sign = Literal["cooperative", "adversarial"]
Regulariser = Literal["none", "entropy", "kl_to_average"]


def check_objective(
    objective: Objective,
    sign: Sign,
    masks_per_image: int,
    divide_lr_factor: bool,
    regulariser: Regulariser,
    coef: float,
) -> None:
    """Refuse options that could not work, or would do nothing.

    Raises:
        ValueError: naming the way out.
    """
    allowed = {"objective": (objective, Objective), "sign": (sign, Sign), "regulariser": (regulariser, Regulariser)}
    for name, (value, choices) in allowed.items():
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
    if masks_per_image < 1:
        raise ValueError(f"masks_per_image must be at least 1, got {masks_per_image}")
    if divide_lr_factor and objective != "official":
        raise ValueError(f"divide_lr_factor belongs to objective official; {objective} multiplies no learning rate")
    learns = objective in ("reinforce", "pathwise")
    if not learns and (regulariser != "none" or sign != "cooperative"):
        raise ValueError(
            f"sign and regulariser belong to the objectives reinforce and pathwise, and would change nothing in "
            f"{objective}; leave them out"
        )
    if regulariser != "none" and coef <= 0:
        raise ValueError(f"regulariser_coef must be positive with regulariser {regulariser}, got {coef}")


def regularisation(distribution: MaskDistribution, average: MaskDistribution, regulariser: Regulariser) -> Tensor:
    """``[B]`` mean over cells of what a regulariser minimises, in nats.

    Args:
        distribution: of each row's cells.
        average: ``[1, M]`` of the running averages.
        regulariser: ``entropy`` (its negative is minimised) or ``kl_to_average``.
    """
    cells = -distribution.entropy() if regulariser == "entropy" else distribution.divergence(average)
    return cells.mean(dim=1)


@torch.no_grad()
def distribution_statistics(distribution: MaskDistribution) -> dict[str, Tensor]:
    """What is logged of a batch's distributions, one row an image, under ``rollout/`` names.

    A spread over images of 0 means that every image gets the same distribution.
    """
    log_alpha, log_beta = distribution
    statistics = {
        "rollout/alpha_mean": log_alpha.exp().mean(),
        "rollout/beta_mean": log_beta.exp().mean(),
        "rollout/cell_expectation": distribution.mean().mean(),
    }
    if len(log_alpha) > 1:
        statistics["rollout/alpha_spread_over_images"] = log_alpha.std(dim=0).mean()
        statistics["rollout/beta_spread_over_images"] = log_beta.std(dim=0).mean()
    return statistics
