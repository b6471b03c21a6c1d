"""Policy filtration: rank each group's responses by reward and let some of them through (PF-PPO, sections 4 and 5.4).

P: groups (prompts, images), N: responses a group. Ranks are taken inside a group only, never over the batch.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Strategy = Literal[
    "none", "random", "best_of_n", "best_random", "best_worst", "top", "top_random", "top_bottom", "power"
]
SelectionMode = Literal["hard", "sample"]

_NEEDS_OTHERS = {"best_random", "best_worst"}


def selection_weights(
    rewards: Tensor,
    strategy: Strategy,
    *,
    power: float = 1.0,
    high: float | None = None,
    low: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Probability with which a strategy lets each response through.

    ``none`` and ``random`` weigh all alike; ``best_of_n`` only the best; ``best_random`` gives the best 1/2 and each
    other 1/(2(N-1)); ``best_worst`` gives the best and the worst 1/2 each. By thresholds: ``top`` takes rewards above
    ``high``, ``top_random`` those with weight 1 and the rest with 1/2, ``top_bottom`` those above ``high`` or below
    ``low``; ``power`` weighs by ``|reward|^power``, which wants rewards centred on 0. A group in which nothing
    qualifies is weighed uniformly.

    Args:
        rewards: ``[P, N]``.
        strategy: one of `Strategy`.
        power: k of PPO-pow-k.
        high: upper threshold, in units of the reward.
        low: lower threshold.
        generator: breaks ties at random; without it PyTorch's global one does.

    Returns:
        ``[P, N]``, each row sums to 1.

    Raises:
        ValueError: for an unknown strategy, a missing threshold, N = 1 with a strategy that needs others, or rewards
            that are not a finite matrix.
    """
    _check(rewards, strategy, high, low)
    n = rewards.shape[1]
    if strategy in ("none", "random"):
        return torch.full_like(rewards, 1 / n)
    if strategy in ("best_of_n", "best_random", "best_worst"):
        ranks = _ranks(rewards, generator)
        best, worst = (ranks == 0).to(rewards), (ranks == n - 1).to(rewards)
        if strategy == "best_of_n":
            return best
        return (best + worst) / 2 if strategy == "best_worst" else best / 2 + (1 - best) / (2 * (n - 1))
    weights = _unnormalised(rewards, strategy, power, high, low)
    weights = torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, torch.ones_like(weights))
    return weights / weights.sum(dim=1, keepdim=True)


def select(
    rewards: Tensor,
    strategy: Strategy,
    keep: int,
    mode: SelectionMode = "hard",
    generator: torch.Generator | None = None,
    *,
    power: float = 1.0,
    high: float | None = None,
    low: float | None = None,
) -> Tensor:
    """The responses of each group that may pass: the same number in every group, so that ranks stay in step.

    ``hard`` picks ``keep`` different ones: the best for ``best_of_n``; the best and uniformly drawn others for
    ``best_random``; best, worst, second best, ... in turn for ``best_worst``; any for ``random``; those that qualify
    first (in random order), filled up at random, for the thresholds; the largest ``|reward|`` for ``power``.
    ``sample`` draws ``keep`` times with replacement from `selection_weights`. ``none`` returns all N in order.

    Args:
        rewards: ``[P, N]``.
        strategy: one of `Strategy`.
        keep: responses a group, 1 to N; ``none`` wants N.
        mode: the two readings of the paper.
        generator: draws and breaks ties.
        power: see `selection_weights`.
        high: see `selection_weights`.
        low: see `selection_weights`.

    Returns:
        ``[P, keep]`` int64 column indices.

    Raises:
        ValueError: if ``keep`` is not in 1..N, and as `selection_weights`.
    """
    _check(rewards, strategy, high, low)
    p, n = rewards.shape
    if strategy == "none":
        keep = n
    if not 1 <= keep <= n:
        raise ValueError(
            f"keep must lie between 1 and the {n} responses of a group, got {keep}; keep fewer or sample more"
        )
    if strategy == "none":
        return torch.arange(n, device=rewards.device).expand(p, n).contiguous()
    if mode == "sample":
        weights = selection_weights(rewards, strategy, power=power, high=high, low=low, generator=generator)
        return torch.multinomial(weights.float(), keep, replacement=True, generator=generator)
    if mode != "hard":
        raise ValueError(f"mode must be 'hard' or 'sample', got {mode!r}")
    priority = _priority(rewards, strategy, power, high, low, generator)
    return _order(priority, generator)[:, :keep]


def _check(rewards: Tensor, strategy: str, high: float | None, low: float | None) -> None:
    if strategy not in get_args(Strategy):
        raise ValueError(f"unknown strategy {strategy!r}; choose one of {', '.join(get_args(Strategy))}")
    if rewards.dim() != 2 or rewards.shape[1] < 1:
        raise ValueError(f"rewards must be [groups, responses], got shape {tuple(rewards.shape)}")
    if strategy in _NEEDS_OTHERS and rewards.shape[1] < 2:
        raise ValueError(f"{strategy} compares responses and needs at least 2 a group, got 1; raise num_samples")
    if strategy in ("top", "top_random", "top_bottom") and high is None:
        raise ValueError(f"{strategy} needs the threshold `high`")
    if strategy == "top_bottom" and low is None:
        raise ValueError("top_bottom needs the threshold `low`")


def _random(rewards: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(rewards.shape, generator=generator, device=rewards.device)


def _order(scores: Tensor, generator: torch.Generator | None) -> Tensor:
    """Columns by falling score, ties in random order: shuffle first, then sort stably."""
    shuffle = _random(scores, generator).argsort(dim=1)
    order = scores.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
    return shuffle.gather(1, order)


def _ranks(rewards: Tensor, generator: torch.Generator | None) -> Tensor:
    """``[P, N]`` rank of each response in its group, 0 = best, ties broken at random."""
    return _order(rewards, generator).argsort(dim=1)


def _unnormalised(rewards: Tensor, strategy: str, power: float, high: float | None, low: float | None) -> Tensor:
    if strategy == "power":
        return rewards.abs() ** power
    above = (rewards > (float("inf") if high is None else high)).to(rewards)
    if strategy == "top":
        return above
    if strategy == "top_random":
        return (1 + above) / 2
    return above + (rewards < (float("-inf") if low is None else low)).to(rewards)


def _priority(
    rewards: Tensor,
    strategy: str,
    power: float,
    high: float | None,
    low: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    """``[P, N]``, higher passes first; equal priorities are shuffled by the caller."""
    if strategy == "random":
        return torch.zeros_like(rewards)
    if strategy == "best_of_n":
        return rewards
    ranks = _ranks(rewards, generator)
    if strategy == "best_random":
        return (ranks == 0).to(rewards)
    if strategy == "best_worst":  # best 0, worst 1, second best 2, second worst 3, ...
        from_worst = rewards.shape[1] - 1 - ranks
        return -torch.where(ranks <= from_worst, 2 * ranks, 2 * from_worst + 1).to(rewards)
    return _unnormalised(rewards, strategy, power, high, low)
