"""Images a second of the loader: from the cache on disk against decoding PNGs, and what loader processes cost.

    python benchmarks/data.py [--images 2000] [--size 224] [--turns 5] [--quick]

Phantoms at the published size are drawn once into --root. An epoch is every batch of the split as the loader delivers
it; the two ways take turns, in one process on one thread, the first turn does not count and the least of the others
does. Evaluation resizes and cuts (the cache holds the result); training adds the augmentation, which runs a batch at a
time where the network is, here on the same thread; the loader's own share is what a GPU would wait for. Both ways must
deliver the same numbers, to the bit.

With loader processes: images a second of an epoch, and each process's memory after it, from /proc: resident, and of
that what it shares with no other.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from workloads import spread

from tamis.datamodules import Phantoms, RadImageNet
from tamis.datamodules.phantoms import CLASSES

AIM = 10


class Way(NamedTuple):
    """A way to get an epoch.

    Args:
        name: in the table.
        cache: whether the images come from the array on disk.
        split: ``train`` or ``val``, of as many images.
        device: whether what runs beside the network is in the time.
    """

    name: str
    cache: bool
    split: str
    device: bool


WAYS = tuple(
    Way(f"{split}, {'loader and augmentation' if device else 'loader'}", cache, split, device)
    for split, device in (("val", False), ("train", False), ("train", True))
    for cache in (False, True)
)


def datamodule(root: Path, size: int, cache: bool, workers: int = 0) -> RadImageNet:
    """The images with or without the cache, ready to be read."""
    data = RadImageNet(str(root), batch_size=32, image_size=size, cache=cache, num_workers=workers, data_seed=0)
    data.prepare_data()
    data.setup("fit")
    return data


def epoch(data: RadImageNet, way: Way) -> Callable[[], float]:
    """What takes one epoch and says its seconds."""
    loader = data.train_dataloader() if way.split == "train" else data.val_dataloader()

    def run() -> float:
        start = time.perf_counter()
        for batch in loader:
            if way.device:
                data.on_after_batch_transfer(batch, 0)
        return time.perf_counter() - start

    return run


def same_numbers(pair: tuple[RadImageNet, RadImageNet]) -> bool:
    """Whether both ways give the network the same images."""
    for loader in ("train_dataloader", "val_dataloader"):
        for batches in zip(*(getattr(data, loader)() for data in pair), strict=True):
            left, right = (data.on_after_batch_transfer(batch, 0) for data, batch in zip(pair, batches, strict=True))
            if not torch.equal(left.images, right.images) or not torch.equal(left.labels, right.labels):
                return False
    return True


def megabytes(process: int) -> tuple[float, float]:
    """Resident memory, and of it what no other process shares; NaN where the system does not say."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return float("nan"), float("nan")
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines[1:]}
    return sizes["Rss"], sum(size for name, size in sizes.items() if name.startswith("Private_"))


def with_workers(data: RadImageNet) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of the second epoch, after which the memory of the processes is read."""
    loader = data.train_dataloader()
    for _ in range(2):
        start = time.perf_counter()
        for _batch in loader:
            pass
        seconds = time.perf_counter() - start
    processes = [worker.pid for worker in getattr(loader._iterator, "_workers", [])]
    return seconds, [megabytes(process) for process in processes or [os.getpid()]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="of an epoch")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--turns", type=int, default=5, help="epochs of each way, of which the least counts")
    parser.add_argument("--root", type=Path, default=Path("data/benchmark_phantoms"), help="where the images lie")
    parser.add_argument("--quick", action="store_true", help="64 images of 32 pixels, 1 turn: does it run?")
    options = parser.parse_args()
    images, size, turns = (64, 32, 1) if options.quick else (options.images, options.size, options.turns)
    if images < len(CLASSES) or size < 16 or turns < 1:
        parser.error(
            f"--images must be at least {len(CLASSES)}, --size 16 and --turns 1, got {images}, {size}, {turns}"
        )
    torch.set_num_threads(1)
    root = options.root / f"{images}x{size}"
    Phantoms(str(root), images, images, len(CLASSES), phantom_size=size, cache=False).prepare_data()
    pair = (datamodule(root, size, cache=False), datamodule(root, size, cache=True))
    console = Console(width=110)
    console.print(f"the same numbers from both, augmentation included: {'yes' if same_numbers(pair) else 'NO'}")
    console.print(_speed(pair, images, turns))
    console.print(_workers(root, size, images))
    console.print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {images} images of {size} pixels, batches of 32"
    )


def _speed(pair: tuple[RadImageNet, RadImageNet], images: int, turns: int) -> Table:
    runs = [epoch(pair[way.cache], way) for way in WAYS]
    seconds: list[list[float]] = [[] for _ in WAYS]
    for turn in track(range(turns + 1), "epochs", console=Console(stderr=True), transient=True):
        for number, run in enumerate(runs):
            took = run()
            if turn:
                seconds[number].append(took)
    table = Table("an epoch of", "PNG, s (least to most)", "cache, s", "PNG images/s", "cache images/s", "ratio", "aim")
    for number in range(0, len(WAYS), 2):
        png, cache = seconds[number], seconds[number + 1]
        rates = [f"{images / min(times):.0f}" for times in (png, cache)]
        aim = "" if WAYS[number].device else f"at least {AIM}"
        table.add_row(WAYS[number].name, spread(png, 3), spread(cache, 3), *rates, f"{min(png) / min(cache):.1f}", aim)
    return table


def _workers(root: Path, size: int, images: int) -> Table:
    table = Table("training loader", "processes", "images/s", "MB of each process: resident (own)")
    for cache in (False, True):
        for workers in (0, 2):
            seconds, memory = with_workers(datamodule(root, size, cache, workers))
            told = ", ".join(f"{resident:.0f} ({own:.0f})" for resident, own in memory)
            table.add_row("cache" if cache else "PNG", str(workers), f"{images / seconds:.0f}", told)
    return table


if __name__ == "__main__":
    main()
