"""From rewards to advantages: KL shaping, generalised advantage estimation, baselines. B: rows, T: steps."""

from __future__ import annotations

import torch
from torch import Tensor


def last_step(mask: Tensor) -> Tensor:
    """``[B, T]`` bool, True at each row's last valid step only; rows without a step have none."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, steps, -1).amax(dim=1, keepdim=True)
    return (steps == last) & mask


def shape_rewards(rewards: Tensor, kl: Tensor | None, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each step: ``-kl_coef * kl`` everywhere, plus the row's reward at its last valid step.

    PF-PPO, algorithm 2: R(y|c) - sum_t beta (log pi - log pi_SFT), sparse reward and dense per-token penalty.

    Args:
        rewards: ``[B]``.
        kl: ``[B, T]`` per-step KL estimate, or ``None`` without a reference.
        mask: ``[B, T]`` bool, True = a step was taken.
        kl_coef: beta, per nat.

    Returns:
        ``[B, T]``, 0 off the mask. A row without a step gets nothing.
    """
    shaped = torch.where(last_step(mask), rewards.unsqueeze(1), 0.0)
    if kl is not None:
        shaped = shaped - kl_coef * kl
    return torch.where(mask, shaped, 0.0)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, truncated: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) over padded rows.

    ``delta_t = r_t + gamma V_{t+1} - V_t`` and ``A_t = delta_t + gamma lam A_{t+1}``; after a row's last step V is 0,
    or, where ``truncated`` says that the row was cut off, V of the last step itself (the state after it was never
    evaluated).

    Args:
        rewards: ``[B, T]`` reward of each step.
        values: ``[B, T]`` V of the state in which each step was taken.
        mask: ``[B, T]`` bool, True = a step was taken; valid steps come first in a row.
        gamma: discount, in [0, 1].
        lam: lambda, in [0, 1].
        truncated: ``[B]`` bool, rows to bootstrap.

    Returns:
        ``(advantages, returns)``, both ``[B, T]`` and 0 off the mask; ``returns = advantages + values``.

    Raises:
        ValueError: if shapes differ or gamma or lambda leave [0, 1].
    """
    if not rewards.shape == values.shape == mask.shape:
        shapes = [tuple(tensor.shape) for tensor in (rewards, values, mask)]
        raise ValueError(f"rewards, values and mask must have one shape, got {shapes}")
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma and lam must lie in [0, 1], got gamma={gamma}, lam={lam}")
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    at_end = values if truncated is None else torch.where(truncated.unsqueeze(1), values, 0.0)
    following = torch.where(last_step(mask), at_end if truncated is not None else 0.0, following)
    deltas = torch.where(mask, rewards + gamma * following - values, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0]) if rewards.shape[1] else rewards.new_zeros(rewards.shape[0])
    for step in range(rewards.shape[1] - 1, -1, -1):
        running = deltas[:, step] + gamma * lam * running
        advantages[:, step] = running
    advantages = torch.where(mask, advantages, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def leave_one_out_baseline(rewards: Tensor) -> Tensor:
    """Mean reward of the *other* members of each group (RLOO, Kool et al. 2019; Ahmadian et al. 2024).

    Args:
        rewards: ``[P, N]``, one group a row.

    Returns:
        ``[P, N]``.

    Raises:
        ValueError: for N < 2, where there is no other member.
    """
    n = rewards.shape[-1]
    if n < 2:
        raise ValueError(
            f"a leave-one-out baseline needs at least 2 actions a group, got {n}; raise the number of samples"
        )
    return (rewards.sum(dim=-1, keepdim=True) - rewards) / (n - 1)


def scale_by_group_std(advantages: Tensor, rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """Advantages in units of their group's spread of rewards (GRPO, Shao et al. 2024, section 4.1.2).

    Groups then count alike however far their rewards lie apart; one whose rewards are all the same stays at 0.

    Args:
        advantages: ``[P, N]``, rewards less a baseline of the group.
        rewards: ``[P, N]``; the standard deviation is the biased one, as that of `masked_whiten`.
        eps: added to it.

    Returns:
        ``[P, N]``.

    Raises:
        ValueError: if the shapes differ.
    """
    if advantages.shape != rewards.shape:
        raise ValueError(f"advantages {tuple(advantages.shape)} and rewards {tuple(rewards.shape)} must have one shape")
    return advantages / (rewards.std(dim=-1, correction=0, keepdim=True) + eps)
