"""What is done to rewards and masks before advantages are estimated: cut-off responses and the KL to the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from ..functional import KLEstimator, kl_divergence, leave_one_out_baseline
from ..processes import mean_over_ranks
from ..rollout import Rollout

Truncated = Literal["keep", "penalty", "bootstrap", "mask"]
KLPlace = Literal["reward", "loss"]


def check_truncation(truncated: str, penalty: float, known: tuple[str, ...]) -> None:
    """Refuse an unknown treatment of cut-off responses, and a penalty that pays.

    Raises:
        ValueError: naming what is allowed.
    """
    if truncated not in known:
        raise ValueError(f"truncated must be one of {', '.join(known)}, got {truncated!r}")
    if not penalty >= 0:
        raise ValueError(f"truncation_penalty is subtracted and must not be negative, got {penalty}")


def check_kl(coef: float, estimator: KLEstimator, place: KLPlace, target: float | None) -> None:
    """Refuse a KL penalty that could not work.

    Raises:
        ValueError: naming the way out.
    """
    if estimator not in get_args(KLEstimator) or place not in get_args(KLPlace):
        raise ValueError(f"kl_estimator must be k1, k2 or k3 and kl_place reward or loss, got {estimator}, {place}")
    if not coef >= 0:
        raise ValueError(f"kl_coef must not be negative, got {coef}")
    if place == "loss" and estimator == "k1" and coef > 0:
        raise ValueError(
            "kl_place: loss with kl_estimator: k1 would do nothing, because the expected gradient of k1 is 0; "
            "choose k2 (the exact KL's gradient) or k3, or kl_place: reward"
        )
    if target is not None and (target <= 0 or coef == 0):
        raise ValueError(f"kl_target must be positive and start from a kl_coef above 0, got {target} and {coef}")


def check_above_zero(options: Mapping[str, float | None]) -> None:
    """Refuse what would clip everything away, or is no number, when an update is made and not at its first step.

    Raises:
        ValueError: naming the option.
    """
    for name, value in options.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_discounts(gamma: float, lam: float) -> None:
    """Refuse discounts that GAE would, before anything is sampled.

    Raises:
        ValueError: naming both.
    """
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma and lam must lie in [0, 1], got gamma={gamma}, lam={lam}")


def check_rows(critic_rows: str, whiten_over: str, whiten: bool) -> bool:
    """Whether more rows than the kept ones are asked for.

    Raises:
        ValueError: for an unknown choice, or one without effect.
    """
    if {critic_rows, whiten_over} - {"kept", "all"}:
        raise ValueError(f"critic_rows and whiten_over must be kept or all, got {critic_rows!r} and {whiten_over!r}")
    if whiten_over == "all" and not whiten:
        raise ValueError("whiten_over: all without whiten_advantages would do nothing; set one of them otherwise")
    return "all" in (critic_rows, whiten_over)


def treat_truncated(rollout: Rollout, truncated: Truncated, penalty: float) -> Rollout:
    """The rollout with the rewards (``penalty``) or the mask (``mask``) of its cut-off responses changed.

    Raises:
        ValueError: if a treatment is wanted and the rollout does not tell which responses were cut off.
    """
    if truncated == "keep":
        return rollout
    if rollout.truncated is None:
        raise ValueError(
            f"truncated: {truncated} needs to know which responses were cut off, and this policy's never are; "
            "set `--update.truncated=keep`"
        )
    if truncated == "penalty":
        rewards = rewards_of(rollout)
        return rollout.replace(rewards=rewards - penalty * rollout.truncated.to(rewards))
    if truncated == "mask":
        return rollout.replace(response_mask=rollout.response_mask & ~rollout.truncated.unsqueeze(1))
    return rollout


def left_out(rollout: Rollout, truncated: Truncated) -> Tensor | None:
    """``[B]`` bool, the rows that are in no loss, ``None`` where all are."""
    return rollout.truncated if truncated == "mask" else None


def rewards_of(rollout: Rollout) -> Tensor:
    """The rewards as constants.

    Raises:
        ValueError: if there are none.
    """
    if rollout.rewards is None:
        raise ValueError("an update needs rewards, and this rollout has none")
    return rollout.rewards.detach()


def step_kl(rollout: Rollout, kl_coef: float, estimator: KLEstimator) -> Tensor | None:
    """``[B, T]`` KL estimate of each step against the reference; ``None`` where nothing asks for it.

    Raises:
        ValueError: if a penalty is wanted and the rollout has no reference log-probabilities.
    """
    if rollout.ref_log_probs is None or rollout.log_probs is None:
        if kl_coef > 0:
            raise ValueError(
                f"kl_coef={kl_coef} needs a reference policy, and this module keeps none; set `--update.kl_coef=0`"
            )
        return None
    return kl_divergence(rollout.log_probs.detach(), rollout.ref_log_probs, estimator)


def response_kl(rollout: Rollout) -> float:
    """Mean over rows (of all ranks) of the k1 estimate of a whole response's KL, in nats; 0 without a reference."""
    kl = step_kl(rollout, 0.0, "k1")
    return 0.0 if kl is None else float(mean_over_ranks((kl * rollout.response_mask).sum(dim=1).mean()))


def response_kls(rollout: Rollout, option: str) -> Tensor:
    """``[B]`` k1 estimate of the KL of each whole response to the reference, in nats.

    Raises:
        ValueError: naming the option that asks for it, if there is no reference.
    """
    kl = step_kl(rollout, 0.0, "k1")
    if kl is None:
        raise ValueError(f"{option} needs a reference policy, and this module keeps none; set `--update.{option}=0`")
    return torch.where(rollout.response_mask, kl, 0.0).sum(dim=1)


def leave_one_out_advantages(rollout: Rollout, rewards: Tensor) -> Tensor:
    """``[B]`` reward minus the mean reward of the other rows of the same group."""
    groups = rollout.groups()
    advantages = torch.empty_like(rewards)
    advantages[groups] = rewards[groups] - leave_one_out_baseline(rewards[groups])
    return advantages
