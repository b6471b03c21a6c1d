"""What PPO reports of its advantages and its critic, over the rows of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import weigh
from ..processes import max_over_ranks, sum_over_ranks
from ..rollout import Rollout


def advantage_stats(rollout: Rollout, critic_rows: Tensor | None) -> dict[str, Tensor]:
    """Moments of the advantages that the policy learns from, and explained variance of the critic.

    That is 1 - Var(returns - values) / Var(returns); NaN for constant returns.

    Args:
        rollout: with advantages.
        critic_rows: ``[B]`` how often each row counts for the critic; ``None`` is once each.

    Raises:
        ValueError: without advantages.
    """
    if rollout.advantages is None:
        raise ValueError("this rollout has no advantages; call estimate_advantages first")
    mask, advantages, kept = rollout.response_mask, rollout.advantages, rollout.kept
    used = mask if kept is None else mask & (kept > 0).unsqueeze(1)
    stats = {
        "update/advantage_mean": _mean(advantages, mask, kept),
        "update/advantage_std": _variance(advantages, mask, kept).sqrt(),
        "update/advantage_abs_max": max_over_ranks(torch.where(used, advantages.abs(), 0.0).max()),
    }
    if rollout.returns is None or rollout.values is None:
        return stats
    spread = _variance(rollout.returns, mask, critic_rows)
    explained = 1 - _variance(rollout.returns - rollout.values, mask, critic_rows) / spread
    return stats | {"update/explained_variance": torch.where(spread > 0, explained, torch.nan)}


def _mean(values: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Of the valid steps of all ranks; a mean of the ranks' means would weigh ranks alike, however short their rows."""
    steps = sum_over_ranks(weigh(mask, weights).sum()).clamp(min=1)
    return sum_over_ranks(weigh(torch.where(mask, values, 0.0), weights).sum()) / steps


def _variance(values: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Of the valid steps, without indexing by the mask, which would wait for the device."""
    return _mean((values - _mean(values, mask, weights)) ** 2, mask, weights)
