"""Order and randomness of training data: functions of the seed, the epoch and the item, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

#: How training images are drawn. ``balanced``: with replacement, every class as likely.
Sampling = Literal["uniform", "balanced"]
_ORDER, _AUGMENTATION = 0, 1
_Item = TypeVar("_Item")


class SampleKey(NamedTuple):
    """What a training loader asks the split for.

    Args:
        epoch: from 0; with the image it decides the augmentation.
        image: its number in the split.
    """

    epoch: int
    image: int


class SeededSampler(DistributedSampler[_Item]):
    """A new order every epoch that hangs on seed and epoch only, so that a run may go on in the middle of one.

    Rank r of n takes every n-th item of one order, so that n ranks with batches of B see in each step the items that
    one process with batches of n x B sees. The trainer tells it the epoch.

    Args:
        dataset: the training split.
        seed: of all epochs' orders.
        num_replicas: n.
        rank: r.
        drop_last: leave out what is left of the order behind the last full round of the ranks; otherwise its first
            items fill that round up.
    """

    def __init__(
        self, dataset: Sized, seed: int, num_replicas: int = 1, rank: int = 0, *, drop_last: bool = False
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed, drop_last=drop_last)  # type: ignore[arg-type]
        #: This rank's items to leave out at the beginning of the next epoch: a resumed run has seen them.
        self.first = 0

    @property
    def items(self) -> int:
        """Items of the split, of all ranks."""
        return len(self.dataset)  # type: ignore[arg-type]

    def order(self) -> NDArray[np.int64]:
        """All items in this epoch's order."""
        return philox(self.seed, _ORDER, self.epoch, 0).permutation(self.items)

    def positions(self) -> list[int]:
        """This rank's items."""
        order = np.resize(self.order(), self.total_size)
        numbers: list[int] = order[self.rank :: self.num_replicas][self.first :].tolist()
        return numbers


class RecordSampler(SeededSampler[int]):
    """Numbers of records; with ``lengths`` a batch's have similar lengths, so that little is spent on padding.

    Args:
        lengths: of the records, in any unit; ``None`` mixes long and short.
        batch_size: records a batch of all ranks together.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int,
        num_replicas: int,
        rank: int,
        batch_size: int,
        lengths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dataset, seed, num_replicas, rank, drop_last=True)
        self._lengths, self._batch_size = lengths, batch_size

    def __iter__(self) -> Iterator[int]:
        """This rank's numbers."""
        return iter(self.positions())

    def order(self) -> NDArray[np.int64]:
        """Uniform, or of similar lengths."""
        if self._lengths is None:
            return super().order()
        from transformers.trainer_pt_utils import get_length_grouped_indices

        seed = int(philox(self.seed, _ORDER, self.epoch, 0).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        return np.array(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))


class EpochSampler(SeededSampler[SampleKey]):
    """Keys of images, which carry the epoch into the loader's processes, because these outlive an epoch.

    Args:
        class_labels: ``[N]`` int64 to draw every class as often, with replacement; ``None`` draws every image once.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        class_labels: Tensor | None = None,
        *,
        drop_last: bool = False,
    ) -> None:
        super().__init__(dataset, seed, num_replicas, rank, drop_last=drop_last)
        self._weights = None if class_labels is None else balanced_weights(class_labels).numpy()

    def __iter__(self) -> Iterator[SampleKey]:
        """This rank's keys."""
        return (SampleKey(self.epoch, image) for image in self.positions())

    def order(self) -> NDArray[np.int64]:
        """Uniform, or with every class as likely."""
        if self._weights is None:
            return super().order()
        return philox(self.seed, _ORDER, self.epoch, 0).choice(self.items, size=self.items, p=self._weights)


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
    rows = [philox(seed, _AUGMENTATION, key.epoch, key.image).random(draws, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, draws)


def philox(seed: int, purpose: int, epoch: int, item: int) -> np.random.Generator:
    """A generator of its own for each purpose, epoch and item."""
    # The low half of the counter counts the numbers of a stream; the high half tells the streams apart.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, item]))
