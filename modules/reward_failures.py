"""Completions that got no reward of their own: what they get instead, and the note that is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

if TYPE_CHECKING:
    from .rewards import Reward

#: Where a completion's record says why it has no reward of its own.
FAILURE = "reward_failure"


class NoFiniteRewardError(RuntimeError):
    """A reward gave no finite number for any completion, so that there is nothing to learn from."""


def note_failure(record: Mapping[str, Any], cause: str) -> None:
    """Say in a completion's own record why it got no reward; the task's record, which others share, is left alone."""
    if isinstance(record, dict) and "completion" in record:
        record.setdefault(FAILURE, cause)


def failures(records: Sequence[Mapping[str, Any]]) -> int:
    """How many of the completions got no reward of their own."""
    return sum(FAILURE in record for record in records)


def mean_of_the_others(prompts: Sequence[str], rewards: Sequence[float | None]) -> list[float]:
    """The rewards, where ``None`` is the mean of the prompt's others, or of all others if the prompt has none.

    Such a row sits at its group's baseline, so that nothing is learned from it.

    Raises:
        ValueError: if there is no reward among them.
    """
    known: dict[str, list[float]] = {}
    for prompt, reward in zip(prompts, rewards, strict=True):
        if reward is not None:
            known.setdefault(prompt, []).append(reward)
    everyone = [reward for group in known.values() for reward in group]
    if not everyone:
        raise ValueError(f"none of {len(rewards)} rewards is known")
    return [
        fmean(known.get(prompt, everyone)) if reward is None else reward
        for prompt, reward in zip(prompts, rewards, strict=True)
    ]


def finite_rewards(reward: Reward, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
    """``[B]`` the rewards, whatever gave them; NaN and infinity become the mean of the prompt's other completions.

    Raises:
        ValueError: if the reward gave anything but one number a completion.
        NoFiniteRewardError: if none of the numbers is finite; in training this skips the iteration.
    """
    rewards = reward(records, completions)
    name = type(reward).__name__
    if not isinstance(rewards, Tensor) or rewards.shape != (len(completions),):
        got = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
        raise ValueError(
            f"{name} returned {got} for {len(completions)} completions; forward must return a tensor of one number a "
            f"completion, of shape ({len(completions)},)"
        )
    finite = torch.isfinite(rewards)
    if bool(finite.all()):
        return rewards
    lost = (~finite).nonzero().squeeze(1).tolist()
    if len(lost) == len(completions):
        raise NoFiniteRewardError(
            f"{name} gave no finite number for any of {len(completions)} completions, so that there is nothing to "
            "learn from; look at the model behind it (its weights, its dtype) or at what it was given"
        )
    for row in lost:
        note_failure(records[row], f"{name} gave {float(rewards[row])}")
    rank_zero_warn(
        f"{len(lost)} of {len(completions)} completions got no finite reward from {name} and are given the mean of "
        f"their prompts' other completions; the first: {float(rewards[lost[0]])} for task "
        f"{records[lost[0]].get('task_id')!r}"
    )
    known = [value if sound else None for value, sound in zip(rewards.tolist(), finite.tolist(), strict=True)]
    filled = mean_of_the_others([record["prompt"] for record in records], known)
    return torch.tensor(filled, dtype=rewards.dtype, device=rewards.device)
