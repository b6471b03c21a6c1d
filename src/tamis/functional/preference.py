"""Losses on preference pairs without a reward model, and BOND's quantile reward. B: pairs, T: steps.

A log-ratio is that of a whole response, ``log pi(y|x) - log pi_ref(y|x)``: what the policy has added to the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def response_log_ratios(log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor) -> Tensor:
    """``[B]`` log-ratio of each response, in nats: the sum over its tokens, never the mean.

    Args:
        log_probs: ``[B, T]`` under the policy.
        ref_log_probs: ``[B, T]`` under the reference; a constant.
        mask: ``[B, T]`` bool, True at the response's tokens.

    Raises:
        ValueError: if the shapes differ.
    """
    if not log_probs.shape == ref_log_probs.shape == mask.shape:
        shapes = [tuple(tensor.shape) for tensor in (log_probs, ref_log_probs, mask)]
        raise ValueError(f"log_probs, ref_log_probs and mask must have one shape, got {shapes}")
    return torch.where(mask, log_probs - ref_log_probs.detach(), 0.0).sum(dim=1)


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """``-log sigmoid(beta (chosen - rejected))`` (Rafailov et al. 2023, eq. 7).

    With label smoothing e each pair counts as turned round with probability e (conservative DPO, Mitchell 2023).

    Args:
        chosen: ``[B]`` log-ratios of the better responses.
        rejected: ``[B]`` log-ratios of the worse ones.
        beta: how much a nat counts, > 0; larger keeps the policy nearer to the reference.
        label_smoothing: probability that a label is wrong, in [0, 0.5).

    Returns:
        ``[B]``, one loss a pair, so that a batch may be computed in parts.

    Raises:
        ValueError: for shapes or options out of range.
    """
    _check(chosen, rejected, beta)
    check_label_smoothing(label_smoothing)
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(chosen: Tensor, rejected: Tensor, beta: float = 0.1) -> Tensor:
    """``((chosen - rejected) - 1 / (2 beta))^2`` (Azar et al. 2023, eq. 17, whose tau is beta here).

    The log-ratios are of whole responses, as in that equation. Some trainers divide them by the response's length
    first; the target of ``1 / (2 beta)`` nats is then one of every token, and a beta means something else.

    Args:
        chosen: ``[B]`` log-ratios of the better responses.
        rejected: ``[B]`` log-ratios of the worse ones.
        beta: > 0.

    Returns:
        ``[B]``, one loss a pair.

    Raises:
        ValueError: for shapes or a beta out of range.
    """
    _check(chosen, rejected, beta)
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kto_loss(chosen: Tensor, rejected: Tensor, beta: float = 0.1) -> Tensor:
    """KTO on paired data (Ethayarajh et al. 2024, eq. 8; its reference points as in the PF-PPO authors' code).

    The mean of ``1 - sigmoid(beta (chosen - KL_rejected))`` and ``1 - sigmoid(beta (KL_chosen - rejected))``, where a
    KL is the batch's mean log-ratio of that side, at least 0, and a constant: no gradient moves the point that
    responses are compared with.

    Args:
        chosen: ``[B]`` log-ratios of the better responses.
        rejected: ``[B]`` log-ratios of the worse ones.
        beta: > 0.

    Returns:
        ``[B]``, one loss a pair. A pair's depends on its batch through the two KLs.

    Raises:
        ValueError: for shapes or a beta out of range.
    """
    _check(chosen, rejected, beta)
    kl_chosen, kl_rejected = (side.detach().mean().clamp(min=0) for side in (chosen, rejected))
    desirable = 1 - torch.sigmoid(beta * (chosen - kl_rejected))
    undesirable = 1 - torch.sigmoid(beta * (kl_chosen - rejected))
    return 0.5 * (desirable + undesirable)


def log_quantiles(rewards: Tensor) -> Tensor:
    """BOND's reward ``log p_<=(y)`` (Sessa et al. 2024, section 3), estimated among each group's own samples.

    ``p_<=(y)`` is the probability that the anchor policy draws a response that scores no better than y. Where the
    group was drawn from the anchor, it is the share of the group that does, y itself included: so the worst of N gets
    ``log(1 / N)`` and not minus infinity, and the best ``0``. Ties share the higher place.

    Args:
        rewards: ``[P, N]``, one group a row.

    Returns:
        ``[P, N]``, in [-log N, 0]. Any increasing change of the rewards leaves it alone.

    Raises:
        ValueError: for another shape.
    """
    if rewards.dim() != 2:
        raise ValueError(f"rewards must be [groups, samples], got shape {tuple(rewards.shape)}")
    no_better = rewards.unsqueeze(1) <= rewards.unsqueeze(2)
    return no_better.to(rewards.dtype).mean(dim=2).log()


def check_label_smoothing(value: float) -> None:
    """Refuse a share of wrong labels that says nothing, or the opposite.

    Raises:
        ValueError: naming the range.
    """
    if not 0 <= value < 0.5:
        raise ValueError(f"label_smoothing is the share of wrong labels and must lie in [0, 0.5), got {value}")


def check_beta(beta: float) -> None:
    """Refuse a beta at which preferences count for nothing.

    Raises:
        ValueError: naming the range.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")


def _check(chosen: Tensor, rejected: Tensor, beta: float) -> None:
    check_beta(beta)
    if chosen.dim() != 1 or chosen.shape != rejected.shape:
        raise ValueError(
            f"chosen and rejected must be vectors of one length, got {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
