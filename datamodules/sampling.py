"""Order and randomness of the training images: functions of the seed, the epoch and the image, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

#: How training images are drawn. ``balanced``: with replacement, every class as likely.
Sampling = Literal["uniform", "balanced"]
_ORDER, _AUGMENTATION = 0, 1


class SampleKey(NamedTuple):
    """What a training loader asks the split for.

    Args:
        epoch: from 0; with the image it decides the augmentation.
        image: its number in the split.
    """

    epoch: int
    image: int


class EpochSampler(DistributedSampler[SampleKey]):
    """A new order every epoch, the same for any number of loader processes and ranks.

    Rank r of n takes every n-th image of one order, so that n ranks with batches of B see in each step the images that
    one process with batches of n x B sees. The trainer tells it the epoch, and the keys carry it into the loader's
    processes, which outlive an epoch.

    Args:
        dataset: the training split.
        seed: of all epochs' orders.
        num_replicas: n.
        rank: r.
        class_labels: ``[N]`` int64 to draw every class as often, with replacement; ``None`` draws every image once.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        class_labels: Tensor | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self._weights = None if class_labels is None else balanced_weights(class_labels).numpy()

    def __iter__(self) -> Iterator[SampleKey]:
        """This rank's keys; the order's first images fill up the last round, so that all ranks have as many."""
        order = np.resize(self._order(), self.total_size)
        for image in order[self.rank :: self.num_replicas].tolist():
            yield SampleKey(self.epoch, image)

    def _order(self) -> NDArray[np.int64]:
        images = len(self.dataset)  # type: ignore[arg-type]
        generator = _generator(self.seed, _ORDER, self.epoch, 0)
        if self._weights is None:
            return generator.permutation(images)
        return generator.choice(images, size=images, p=self._weights)


def balanced_weights(labels: Tensor) -> Tensor:
    """Each image's probability when every class that occurs is as likely: 1 / (classes x images of its class).

    Args:
        labels: ``[N]`` int64.

    Returns:
        ``[N]`` float64 that sum to 1.
    """
    counts = labels.bincount()
    return 1 / (counts[labels].double() * int((counts > 0).sum()))


def augmentation_draws(keys: Sequence[SampleKey], seed: int, draws: int) -> Tensor:
    """``[len(keys), draws]`` fp32 uniform in [0, 1): one row a key, the same in whatever company it is asked for.

    A counter-based generator (Philox 4x64, Salmon et al. 2011) needs no state that workers would have to share.
    """
    rows = [_generator(seed, _AUGMENTATION, key.epoch, key.image).random(draws, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, draws)


def _generator(seed: int, purpose: int, epoch: int, image: int) -> np.random.Generator:
    # The low half of the counter counts the numbers of a stream; the high half tells the streams apart.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, image]))
