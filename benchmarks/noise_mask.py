"""CPU seconds of a noise-mask step: against the bare steps of the same networks and against plain training.

    python benchmarks/noise_mask.py [--turns 5] [--quick] [--json FILE]

ResNet-18 at 224 pixels, 32 images, 165 classes; the released code's mask (resnet10t policy, 64 x 64 cells, blur 13 / 6,
one mask an image), and two masks an image of half the images, which is as many rows for the classifier. On one thread,
without data loading. Every kind of step has a process of its own; the processes of one group live side by side and take
turns step by step, in random order, so that a change of the machine's pace meets all of them. The first step of each
does not count, and the least of the turns does. "Bare" is forward, backward and optimiser step and nothing else. The
components are measured in the same way in one process. --quick takes tiny networks and images to see that it runs.

By itself glibc gives large blocks back to the kernel and takes them again, which costs some percent of a step and
differs from process to process. Here its thresholds are raised, so that it keeps them, in all processes but one, which
shows the difference. About 8 GB of memory are in use at a time.

Not measured: torch.compile, which takes a minute to compile, and the released code itself, because a whole step of it
cannot be told from a bare one on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import mask_components
import mask_steps
from mask_components import COMPONENTS
from mask_steps import GROUPS, PUBLISHED, QUICK, Kind, Sizes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from workloads import spread

HEAVY = ["torch", "timm", "torchvision", "lightning.pytorch", "tamis.modules", "tamis.callbacks"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


class Ratio(NamedTuple):
    """Two kinds of step and what was aimed at."""

    top: str
    bottom: str
    aim: str = ""


RATIOS = (
    Ratio("noise mask", "both networks, bare", "at most 1.10"),
    Ratio("noise mask, policy at half size", "classifier, bare", "at most 1.25"),
    Ratio("two masks an image", "both networks, bare, half the images"),
    Ratio("plain training", "classifier, bare"),
    Ratio("noise mask", "classifier, bare"),
    Ratio("noise mask, glibc's own thresholds", "noise mask"),
)
Steps = dict[str, list[dict[str, float]]]
Parts = dict[tuple[str, str], list[float]]


class Worker:
    """A process that takes a step when told to."""

    def __init__(self, target: Any, *arguments: object, default_memory: bool = False) -> None:  # noqa: ANN401
        # The allocator reads its thresholds when a program starts: a fork has those of the server that it comes from.
        context: Any = get_context("spawn" if default_memory else "forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
        with variables({} if default_memory else THRESHOLDS):
            self.process.start()
        theirs.close()

    def step(self) -> Any:  # noqa: ANN401 - what the target sends
        """Order one and wait for its numbers."""
        try:
            self.connection.send(True)
            return self.connection.recv()
        except (EOFError, BrokenPipeError):
            sys.exit("a measuring process failed; its error stands above")

    def end(self) -> None:
        """No more steps."""
        self.connection.send(False)
        self.process.join()


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that start inside."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure_group(group: Mapping[str, Kind], sizes: Sizes, turns: int, progress: Progress) -> Steps:
    """The numbers of every turn, by kind; each turn takes one step of every kind, in another order."""
    workers = {
        name: Worker(mask_steps.serve, kind, sizes, default_memory=kind.default_memory) for name, kind in group.items()
    }
    order, draw = list(workers), random.Random(0)
    measured: Steps = {name: [] for name in group}
    for turn in progress.track(range(turns + 1), description=f"steps: {', '.join(group)}"):
        draw.shuffle(order)
        for name in order:
            numbers = workers[name].step()
            if turn:
                measured[name].append(numbers)
    for worker in workers.values():
        worker.end()
    return measured


def measure_components(sizes: Sizes, turns: int, progress: Progress) -> Parts:
    """CPU ms of every turn, by component and way."""
    worker = Worker(mask_components.serve, sizes)
    rounds = [worker.step() for _ in progress.track(range(turns + 1), description="components")]
    worker.end()
    return {way: [numbers[way] for numbers in rounds[1:]] for way in rounds[0]}


def report(steps: Steps, parts: Parts, console: Console) -> None:
    """Prints the seconds, then the ratios and the components beside what was aimed at."""
    console.print(step_table(steps))
    console.print(ratio_table(steps))
    console.print("The policy may look at a smaller image because the published step takes 1.67 times plain training.")
    console.print(component_table(parts))
    console.print(remainder(steps))
    console.print(evaluations(steps))
    console.print(f"bf16: this CPU computes in it {'natively' if native_bf16() else 'by way of fp32, not natively'}.")


def step_table(steps: Steps) -> Table:
    """Seconds and memory of each kind."""
    table = Table("one step", "CPU s, least (to most) of the turns", "of it the kernel's", "peak MB of the process")
    for name, turns in steps.items():
        kernel = min(turn["system_s"] for turn in turns)
        peak = max(turn["peak_mb"] for turn in turns)
        table.add_row(name, spread(_seconds(turns), 3), f"{kernel:.3f}", f"{peak:.0f}")
    return table


def ratio_table(steps: Steps) -> Table:
    """Of the least, and of each turn where both took turns."""
    table = Table("ratio", "of the least", "of each turn", "aim")
    for top, bottom, aim in RATIOS:
        above, below = _seconds(steps[top]), _seconds(steps[bottom])
        together = any({top, bottom} <= set(group) for group in GROUPS)
        each = [a / b for a, b in zip(above, below, strict=True)] if together else []
        turns = " ".join(f"{ratio:.3f}" for ratio in each)
        table.add_row(f"{top} / {bottom}", f"{min(above) / min(below):.3f}", turns, aim)
    return table


def component_table(parts: Parts) -> Table:
    """Milliseconds of the way that is taken, and of the other."""
    table = Table("component", "way", "CPU ms, least (to most)", "other way", "CPU ms, least (to most)", "aim")
    for name, way, other, aim in COMPONENTS:
        table.add_row(name, way, spread(parts[name, way], 1), other, spread(parts[name, other], 1), aim)
    return table


def remainder(steps: Steps) -> str:
    """What a step costs beside its networks, told from networks that are too small to hide it."""
    small = steps["noise mask, small networks"]
    beside = min(_seconds(small)) - min(_seconds(steps["small networks, bare"]))
    logging = min(turn["log_s"] for turn in small)
    share = beside / min(_seconds(steps["noise mask"]))
    return (
        f"Beside its networks' passes and their optimisers' steps a step takes {1000 * beside:.0f} ms, of it logging "
        f"{1000 * logging:.0f} ms: {100 * share:.1f}% of the step with the published networks."
    )


def evaluations(steps: Steps) -> str:
    """How often each head ran in a step."""
    counts = {(turn["alpha_head"], turn["beta_head"]) for turn in steps["noise mask"]}
    told = " or ".join(f"{alpha:.0f} and {beta:.0f}" for alpha, beta in sorted(counts))
    return f"Evaluations of the alpha and of the beta head in a step: {told} (aim: 1 and 1)."


def native_bf16() -> bool:
    """Whether the processor multiplies in bf16, as far as Linux says."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _seconds(turns: list[dict[str, float]]) -> list[float]:
    return [turn["cpu_s"] for turn in turns]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="steps of each kind, of which the least counts")
    parser.add_argument("--quick", action="store_true", help="tiny networks and images, 2 turns: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every turn's numbers there")
    options = parser.parse_args()
    if options.turns < 1:
        parser.error(f"--turns must be at least 1, got {options.turns}")
    sizes, turns = (QUICK, 2) if options.quick else (PUBLISHED, options.turns)
    os.environ.update(ENVIRONMENT)
    for name in THRESHOLDS:
        os.environ.pop(name, None)
    get_context("forkserver").set_forkserver_preload(HEAVY)
    steps: Steps = {}
    with Progress(console=Console(stderr=True)) as progress:
        for group in GROUPS:
            steps |= measure_group(group, sizes, turns, progress)
        parts = measure_components(sizes, turns, progress)
    report(steps, parts, Console(width=110))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {' '.join(platform.libc_ver())}, {sizes}")
    if options.json:
        named = {f"{name}: {way}": values for (name, way), values in parts.items()}
        options.json.write_text(json.dumps({"steps": steps, "components_ms": named}, indent=2))


if __name__ == "__main__":
    main()
