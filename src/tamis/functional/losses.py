"""The losses of PPO, REINFORCE and reward modelling. B: rows, T: steps; masks are True where a step counts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .masked import LossAggregation, aggregate_loss, masked_mean

KLEstimator = Literal["k1", "k2", "k3"]


class PPOStats(NamedTuple):
    """What to watch while PPO runs; detached scalars over the valid steps.

    Args:
        clip_fraction: share of steps whose ratio left ``1 +- clip_range``.
        approx_kl: k3 estimate of KL(old || new), in nats per step.
        ratio_mean: mean of the importance ratio.
        ratio_max: its largest value.
    """

    clip_fraction: Tensor
    approx_kl: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor


def ppo_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    aggregation: LossAggregation = "seq_mean",
) -> tuple[Tensor, PPOStats]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7), negated so that it is minimised.

    Args:
        log_probs: ``[B, T]`` under today's parameters, with gradients.
        old_log_probs: ``[B, T]`` under the parameters that acted.
        advantages: ``[B, T]``.
        mask: ``[B, T]`` bool.
        clip_range: epsilon > 0.
        aggregation: see `aggregate_loss`.

    Raises:
        ValueError: if ``clip_range`` is not positive.
    """
    if clip_range <= 0:
        raise ValueError(f"clip_range must be positive, got {clip_range}")
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    with torch.no_grad():
        stats = PPOStats(
            clip_fraction=masked_mean(((ratio - 1).abs() > clip_range).float(), mask),
            approx_kl=masked_mean(ratio - 1 - log_ratio, mask),
            ratio_mean=masked_mean(ratio, mask),
            ratio_max=torch.where(mask, ratio, 0.0).amax(),
        )
    return aggregate_loss(loss, mask, aggregation), stats


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip_range: float | None = 0.2,
    aggregation: LossAggregation = "seq_mean",
) -> Tensor:
    """Half the squared error to the returns; with clipping, the larger of the clipped and the unclipped error.

    Args:
        values: ``[B, T]`` of today's critic, with gradients.
        old_values: ``[B, T]`` of the critic when the rollout was completed.
        returns: ``[B, T]``.
        mask: ``[B, T]`` bool.
        clip_range: how far a value may move from its old one before it stops paying; ``None`` does not clip.
        aggregation: see `aggregate_loss`.
    """
    error = (values - returns) ** 2
    if clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        error = torch.maximum(error, (near - returns) ** 2)
    return 0.5 * aggregate_loss(error, mask, aggregation)


def reinforce_loss(
    log_probs: Tensor, advantages: Tensor, mask: Tensor, aggregation: LossAggregation = "seq_sum"
) -> Tensor:
    """``-A sum_t log pi(a_t)`` (Williams 1992), averaged over rows.

    Args:
        log_probs: ``[B, T]`` with gradients.
        advantages: ``[B]`` one a row, or ``[B, T]`` one a step.
        mask: ``[B, T]`` bool.
        aggregation: ``seq_sum`` is the theorem's joint log-probability; the means only rescale rows, see
            `aggregate_loss`.
    """
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    return aggregate_loss(-advantages * log_probs, mask, aggregation)


def kl_divergence(log_probs: Tensor, ref_log_probs: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Per-step estimate of KL(policy || reference) from steps that the policy drew (Schulman 2020, "Approximating KL").

    With ``r = log pi_ref - log pi``: k1 is ``-r`` (unbiased, may be negative), k2 is ``r^2 / 2`` (biased, low
    variance), k3 is ``e^r - 1 - r`` (unbiased, never negative).

    Args:
        log_probs: any shape, nats.
        ref_log_probs: same shape.
        estimator: which of the three.

    Raises:
        ValueError: for an unknown estimator.
    """
    log_ratio = ref_log_probs - log_probs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    if estimator == "k3":
        return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"estimator must be 'k1', 'k2' or 'k3', got {estimator!r}")


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """``-log sigmoid(s_chosen - s_rejected)``, mean over pairs (Bradley & Terry 1952; PF-PPO section 3).

    Args:
        chosen: ``[B]`` scores of the better responses.
        rejected: ``[B]`` scores of the worse ones.
    """
    return -F.logsigmoid(chosen - rejected).mean()
