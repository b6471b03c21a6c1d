"""Training order of text, and loaders that go on in the middle of an epoch."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tamis.datamodules import CodeTasks, Instructions, MedMNIST
from tamis.datamodules.loading import TrainingLoader, leave_signals_to_the_run
from tamis.datamodules.records import records_digest
from tamis.datamodules.sampling import RecordSampler


def sampler(
    count: int = 20, ranks: int = 1, rank: int = 0, batch: int = 4, lengths: Sequence[int] | None = None, seed: int = 0
) -> RecordSampler:
    return RecordSampler(range(count), seed, ranks, rank, batch, lengths)


def loader(count: int = 20, batch: int = 4, workers: int = 0, ranks: int = 1, rank: int = 0) -> TrainingLoader:
    return TrainingLoader(range(count), sampler(count, ranks, rank), batch, list, workers)


def epoch(loading: TrainingLoader, number: int) -> list[list[int]]:
    loading.sampler.set_epoch(number)  # type: ignore[attr-defined] # what the Trainer does
    return list(loading)


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def dealt(parts: list[list[int]]) -> list[int]:
    return [number for round in zip(*parts, strict=True) for number in round]


def test_every_record_once_in_another_order_every_epoch() -> None:
    orders = [flat(epoch(loader(), number)) for number in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[1] == flat(epoch(loader(), 1))


@pytest.mark.parametrize("count", [20, 21, 23])
def test_two_ranks_share_the_batches_of_one_process(count: int) -> None:
    whole = epoch(loader(count), 2)
    parts = [epoch(loader(count, 2, ranks=2, rank=rank), 2) for rank in range(2)]
    assert [
        [number for pair in zip(*batches, strict=True) for number in pair] for batches in zip(*parts, strict=True)
    ] == whole
    assert len(whole) == count // 4


def test_batches_of_similar_length_on_ranks_too() -> None:
    lengths = [number * 7 % 20 for number in range(20)]
    order = list(sampler(lengths=lengths))
    assert sorted(order) == list(range(20))
    many = [number % 97 for number in range(2000)]
    grouped, mixed = (list(sampler(2000, batch=8, lengths=given)) for given in (many, None))
    spread = [
        torch.tensor([many[n] for n in order]).view(-1, 8).float().std(dim=1).mean() for order in (grouped, mixed)
    ]
    assert spread[0] < spread[1] / 10
    halves = [list(sampler(2000, 2, rank, 8, many)) for rank in range(2)]
    assert dealt(halves) == grouped


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_its_state_says(workers: int) -> None:
    """The state counts what was given out, not what loader processes have asked for ahead."""
    whole = [*epoch(loader(), 0), *epoch(loader(), 1)]
    first = loader(workers=workers)
    seen = []
    for batch in first:
        seen.append(batch)
        if len(seen) == 2:
            break
    state = first.state_dict()
    assert state == {"epoch": 0, "batches": 2, "batch_size": 4, "ranks": 1}
    second = loader(workers=workers)
    second.load_state_dict(state)
    assert [*seen, *epoch(second, 0), *epoch(second, 1)] == whole
    assert second.state_dict() == {"epoch": 1, "batches": 5, "batch_size": 4, "ranks": 1}


def test_a_state_at_an_epochs_end_begins_the_next_one() -> None:
    second = loader()
    second.load_state_dict({"epoch": 0, "batches": 5, "batch_size": 4, "ranks": 1})
    assert epoch(second, 1) == epoch(loader(), 1)


def test_a_state_of_batches_of_another_size_goes_on_at_the_same_record() -> None:
    whole = flat(epoch(loader(), 0))
    second = loader(batch=2)
    second.load_state_dict({"epoch": 0, "batches": 2, "batch_size": 4, "ranks": 1})
    assert flat(epoch(second, 0)) == whole[8:]
    ranks = [loader(batch=2, ranks=2, rank=rank) for rank in range(2)]
    for part in ranks:
        part.load_state_dict({"epoch": 0, "batches": 3, "batch_size": 4, "ranks": 1})
    assert sorted(flat(epoch(ranks[0], 0) + epoch(ranks[1], 0))) == sorted(whole[12:])


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    for workers in (0, 2):
        epoch(loader(workers=workers), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_loader_processes_leave_signals_to_the_run() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        leave_signals_to_the_run(0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)


# Digests of the data


def test_a_digest_is_of_the_content_and_its_order() -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "_source": "x:1", "task": {"n": 1, "_source": "x:1"}}, {"n": 2}]
    elsewhere: list[dict[str, Any]] = [{"task": {"_source": "y", "n": 1}, "prompt": "a"}, {"n": 2, "_source": "y"}]
    assert records_digest(rows) == records_digest(elsewhere)
    assert records_digest(rows) != records_digest(rows[::-1])
    assert records_digest(rows) != records_digest([{**rows[0], "task": {"n": 2}}, rows[1]])


def test_fingerprints_of_what_has_been_read(quickstart: Path, npz: Path) -> None:
    tasks = str(quickstart / "tasks" / "train.jsonl")
    data = CodeTasks(train=f"{tasks}[:8]", validation=f"{tasks}[8:12]", batch_size=4)
    assert data.fingerprint() == {}
    data.setup("fit")
    assert data.fingerprint().keys() == {"train", "validation"}
    other = CodeTasks(train=f"{tasks}[:7]", batch_size=4)
    other.setup("fit")
    assert other.fingerprint()["train"] != data.fingerprint()["train"]
    images = [MedMNIST(str(npz)), MedMNIST(str(npz), cache=True)]
    found = []
    for part in images:
        part.prepare_data()
        part.setup("fit")
        found.append(part.fingerprint())
    assert found[0].keys() == {"train", "val"}
    assert found[0] == found[1]  # a cache holds the same images


def test_a_batch_of_all_ranks_must_be_there(quickstart: Path) -> None:
    data = Instructions(f"{quickstart / 'tasks' / 'demonstrations.jsonl'}[:3]", batch_size=4)
    data.setup("fit")
    with pytest.raises(ValueError, match="batch_size=4 is more than the 3 training records there are"):
        data.train_dataloader()
