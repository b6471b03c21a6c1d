"""What masks of several origins earn on the same held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..modules.noise_mask import NoiseMaskPretraining
from ..modules.noise_policy import MaskDistribution, NoisePolicy, separate_draws

#: Whose masks are looked through: the policy's, its twin's, nobody's, and the policy's for another image.
ORIGINS = ("learned", "twin", "random", "shuffled")


class HeldOutImages:
    """Gathers images of one pass over a split, evenly spread over it: a split is often sorted by class.

    Args:
        wanted: images, at most.
        batches: of the pass; ``math.inf`` where nobody knows, which takes the first ones.
    """

    def __init__(self, wanted: int, batches: float) -> None:
        self.wanted, self.batches = wanted, batches
        self.rows_at_once = 1
        self._found: list[tuple[Tensor, Tensor]] = []
        self._count = 0

    def add(self, images: Tensor, labels: Tensor, batch: int) -> None:
        """Take this batch's share, from batch number ``batch``."""
        share = 1.0 if math.isinf(self.batches) else (batch + 1) / self.batches
        take = min(math.ceil(self.wanted * share) - self._count, self.wanted - self._count, len(images))
        self.rows_at_once = max(self.rows_at_once, len(images))
        if take > 0:
            rows = torch.linspace(0, len(images) - 1, take, device=images.device).round().long()
            self._found.append((images[rows], labels[rows]))
            self._count += take

    def all(self) -> tuple[Tensor, Tensor]:
        """``[n, 3, S, S]`` and ``[n]``.

        Raises:
            ValueError: if there were none.
        """
        if not self._found:
            raise ValueError("no held-out images were seen")
        images, labels = zip(*self._found, strict=True)
        return torch.cat(images), torch.cat(labels)


def distributions(policy: NoisePolicy, images: Tensor, rows_at_once: int) -> MaskDistribution:
    """The mask distributions of many images in evaluation mode."""
    parts = [policy.evaluated(part) for part in images.split(rows_at_once)]
    return MaskDistribution(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@torch.no_grad()
def mask_rewards(
    module: NoiseMaskPretraining,
    learned: MaskDistribution,
    twin: MaskDistribution,
    images: Tensor,
    labels: Tensor,
    draws: int,
    seed: int,
    rows_at_once: int,
) -> dict[str, Tensor]:
    """``[n]`` mean reward of each image over ``draws`` masks of each of `ORIGINS`; the networks' mode is left as it is.

    All origins draw from the same seed: equal distributions give equal masks, and the same weights the same numbers.

    Args:
        module: its classifier looks through the masks.
        learned: of the n images, by the policy.
        twin: by the policy that never learned.
        images: ``[n, 3, S, S]`` normalised.
        labels: ``[n]``.
        draws: masks of each origin an image.
        seed: of the masks, and of who gets whose distribution under ``shuffled``.
        rows_at_once: images a forward pass.
    """
    another = learned.select(another_image(len(images), seed).to(images.device))
    sources: dict[str, Callable[[Tensor], Tensor]] = {
        "learned": partial(_sample, learned),
        "twin": partial(_sample, twin),
        "random": lambda rows: module.random_cells(len(rows)),
        "shuffled": partial(_sample, another),
    }
    rewards = {}
    for origin, cells in sources.items():
        with separate_draws(images.device, seed):
            parts = [
                _mean_reward(module, images[rows], labels[rows], partial(cells, rows), draws)
                for rows in torch.arange(len(images), device=images.device).split(rows_at_once)
            ]
        rewards[origin] = torch.cat(parts)
    return rewards


def another_image(count: int, seed: int) -> Tensor:
    """``[count]`` for each image the index of another one, each taken once (its own only where it is alone)."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return others


def _sample(distribution: MaskDistribution, rows: Tensor) -> Tensor:
    return distribution.select(rows).sample()


def _mean_reward(
    module: NoiseMaskPretraining, images: Tensor, labels: Tensor, cells: Callable[[], Tensor], draws: int
) -> Tensor:
    rewards = [module.reward_of(module.masked_cross_entropy(images, labels, cells())) for _ in range(draws)]
    return torch.stack(rewards).mean(dim=0)
