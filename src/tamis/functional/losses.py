"""The losses of PPO, REINFORCE and reward modelling. B: rows, T: steps; masks are True where a step counts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .masked import Denominators, LossAggregation, aggregate_loss, masked_mean

KLEstimator = Literal["k1", "k2", "k3"]


class PPOStats(NamedTuple):
    """What to watch while PPO runs; detached scalars over the valid steps.

    Args:
        clip_fraction: share of steps whose ratio left ``1 +- clip_range``.
        approx_kl: k3 estimate of KL(old || new), in nats per step.
        ratio_mean: mean of the importance ratio.
        ratio_max: its largest value.
        ratio_error_max: largest distance of the ratio from 1; rounding alone before the first step.
    """

    clip_fraction: Tensor
    approx_kl: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor
    ratio_error_max: Tensor


def ppo_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float = 0.2,
    aggregation: LossAggregation = "seq_mean",
    denominators: Denominators | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, PPOStats]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7), negated so that it is minimised.

    Args:
        log_probs: ``[B, T]`` under today's parameters, with gradients.
        old_log_probs: ``[B, T]`` under the parameters that acted.
        advantages: ``[B, T]``.
        mask: ``[B, T]`` bool.
        clip_range: epsilon > 0.
        aggregation: see `aggregate_loss`.
        denominators: of the whole optimiser batch, where this is a part of it; the parts' losses and means then add up.
        weights: ``[B]`` how often each row counts; ``None`` is once each.

    Raises:
        ValueError: if ``clip_range`` is not positive.
    """
    if clip_range <= 0:
        raise ValueError(f"clip_range must be positive, got {clip_range}")
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    steps = None if denominators is None else denominators.steps
    with torch.no_grad():
        counts = mask if weights is None else mask & (weights > 0).unsqueeze(1)
        stats = PPOStats(
            clip_fraction=masked_mean(((ratio - 1).abs() > clip_range).float(), mask, steps, weights),
            approx_kl=masked_mean(ratio - 1 - log_ratio, mask, steps, weights),
            ratio_mean=masked_mean(ratio, mask, steps, weights),
            ratio_max=torch.where(counts, ratio, 0.0).amax(),
            ratio_error_max=torch.where(counts, (ratio - 1).abs(), 0.0).amax(),
        )
    return aggregate_loss(loss, mask, aggregation, denominators, weights), stats


def ppo_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip_range: float | None = 0.2,
    aggregation: LossAggregation = "seq_mean",
    denominators: Denominators | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Half the squared error to the returns; with clipping, the larger of the clipped and the unclipped error.

    Args:
        values: ``[B, T]`` of today's critic, with gradients.
        old_values: ``[B, T]`` of the critic when the rollout was completed.
        returns: ``[B, T]``.
        mask: ``[B, T]`` bool.
        clip_range: how far a value may move from its old one before it stops paying; ``None`` does not clip.
        aggregation: see `aggregate_loss`.
        denominators: see `aggregate_loss`.
        weights: see `aggregate_loss`.
    """
    error = (values - returns) ** 2
    if clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        error = torch.maximum(error, (near - returns) ** 2)
    return 0.5 * aggregate_loss(error, mask, aggregation, denominators, weights)


def reinforce_loss(
    log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: LossAggregation = "seq_sum",
    denominators: Denominators | None = None,
) -> Tensor:
    """``-A sum_t log pi(a_t)`` (Williams 1992), averaged over rows.

    Args:
        log_probs: ``[B, T]`` with gradients.
        advantages: ``[B]`` one a row, or ``[B, T]`` one a step.
        mask: ``[B, T]`` bool.
        aggregation: ``seq_sum`` is the theorem's joint log-probability; the means only rescale rows, see
            `aggregate_loss`.
        denominators: see `aggregate_loss`.
    """
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    return aggregate_loss(-advantages * log_probs, mask, aggregation, denominators)


def kl_divergence(log_probs: Tensor, ref_log_probs: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Per-step estimate of KL(policy || reference) from steps that the policy drew (Schulman 2020, "Approximating KL").

    With ``r = log pi_ref - log pi``: k1 is ``-r`` (unbiased, may be negative), k2 is ``r^2 / 2`` (biased, low
    variance), k3 is ``e^r - 1 - r`` (unbiased, never negative). As a loss, on steps that the policy itself drew, it is
    the other way round: the expected gradient of k2 is exactly that of KL(policy || reference), that of k3 is the
    gradient of KL(reference || policy), which agrees only nearby, and that of k1 is 0.

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


def adapt_kl_coef(coef: float, kl: float, target: float, gain: float = 0.1) -> float:
    """The next KL coefficient of a proportional controller in log-space (Ziegler et al. 2019, section 2.2).

    ``coef * (1 + gain * e)`` with ``e = (kl - target) / target``, clipped to [-0.2, 0.2].

    Args:
        coef: beta of this iteration.
        kl: what was measured, nats a response.
        target: what is wanted, in the same units, > 0.
        gain: K_beta, in (0, 5), so that the coefficient stays positive.

    Raises:
        ValueError: for a target or a gain out of range.
    """
    if target <= 0 or not 0 < gain < 5:
        raise ValueError(f"the target must be positive and the gain lie in (0, 5), got {target} and {gain}")
    error = min(max((kl - target) / target, -0.2), 0.2)
    return coef * (1 + gain * error)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0, centring: float = 0.0) -> Tensor:
    """``-log sigmoid(s_chosen - s_rejected - margin) + centring (s_chosen + s_rejected)^2``, mean over pairs.

    The first term is Bradley & Terry 1952 (PF-PPO section 3) with the margin of Touvron et al. 2023 ("Llama 2", eq. 2).
    It does not change when all scores move together, so that they may drift to any level; the second term (Eisenstein
    et al. 2023, "Helping or Herding?") holds them around 0.

    Args:
        chosen: ``[B]`` scores of the better responses.
        rejected: ``[B]`` scores of the worse ones.
        margin: by how much the better response is to score above the worse: one number, or ``[B]``.
        centring: weight of the second term, >= 0; 0.01 is usual.

    Raises:
        ValueError: for different shapes or a negative weight.
    """
    if chosen.shape != rejected.shape:  # broadcasting would pair every response with every other
        raise ValueError(f"chosen {tuple(chosen.shape)} and rejected {tuple(rejected.shape)} must have one shape")
    if isinstance(margin, Tensor) and margin.shape != chosen.shape:
        raise ValueError(
            f"margin {tuple(margin.shape)} must be one number or of the scores' shape {tuple(chosen.shape)}"
        )
    if centring < 0:
        raise ValueError(f"centring must be at least 0, got {centring}; below it, scores would be driven apart")
    loss = -F.logsigmoid(chosen - rejected - margin)
    return (loss + centring * (chosen + rejected) ** 2).mean()
