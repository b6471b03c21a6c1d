"""Data loaders that know where in the epoch they are, and whose processes leave signals to the main one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from .sampling import SeededSampler


class Position(NamedTuple):
    """Where a training loader is.

    Args:
        epoch: from 0.
        batches: given out in this epoch.
        batch_size: items of a batch of all ranks together.
        ranks: processes that share the order.
    """

    epoch: int
    batches: int
    batch_size: int
    ranks: int


class TrainingLoader(DataLoader[Any]):
    """Batches in the order of a `SeededSampler`; Lightning puts its position into checkpoints and back.

    It counts batches when they are given out, because loader processes ask the sampler for them earlier.

    Args:
        items: the training split.
        sampler: orders it; one of its own for each loader.
        batch_size: items a batch of this rank.
        collate: makes a batch.
        num_workers: loader processes.
        drop_last: leave the last, smaller batch out.
    """

    def __init__(
        self,
        items: Sized,
        sampler: SeededSampler[Any],
        batch_size: int,
        collate: Callable[[Any], Any],
        num_workers: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(
            items,  # type: ignore[arg-type] # whatever has a length and items is a map-style dataset
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            **_process_options(collate, num_workers),
        )
        self._sampler, self._batches, self._resume = sampler, 0, Position(-1, 0, 0, 1)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # a generator is an iterator
        """This epoch's batches, after those that a resumed run has seen."""
        resume, ranks = self._resume, self._sampler.num_replicas
        seen = resume.batches * resume.batch_size if resume.epoch == self._sampler.epoch else 0
        self._batches = seen // (self._per_rank * ranks)
        self._sampler.first = self._batches * self._per_rank
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    @property
    def _per_rank(self) -> int:
        return self.batch_size or 1

    def position(self) -> Position:
        """Where the run is."""
        ranks = self._sampler.num_replicas
        return Position(self._sampler.epoch, self._batches, self._per_rank * ranks, ranks)

    def state_dict(self) -> dict[str, int]:
        """The position, for a checkpoint."""
        return self.position()._asdict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin the epoch of a saved position behind it; another epoch begins at its beginning."""
        self._resume = Position(**state_dict)


def evaluation_loader(
    items: Sequence[Any] | Sized, batch_size: int, collate: Callable[[Any], Any], num_workers: int = 0
) -> DataLoader[Any]:
    """Batches in the order of the split."""
    options = _process_options(collate, num_workers)
    return DataLoader(items, batch_size=batch_size, **options)  # type: ignore[arg-type]


def leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C and SIGTERM go to every process of a run: its main one ends the iteration, and needs its data until then.

    Loader processes end when the main one tells them to, or is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _process_options(collate: Callable[[Any], Any], num_workers: int) -> dict[str, Any]:
    return {
        "collate_fn": collate,
        "num_workers": num_workers,
        "worker_init_fn": leave_signals_to_the_run,
        # Of no use to us, whose randomness hangs on the items; but without it each epoch takes a number from PyTorch's
        # global generator, and a resumed run one fewer.
        "generator": torch.Generator(),
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
