"""``python -m tamis.demo``: both quickstarts, a table and a picture each.

The two programs run at the same time, a core each: their networks are so small that a second thread would only wait for
the first one.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .code import CodeResults, run_code
from .images import ImageResults, run_images


def main(args: Sequence[str] | None = None) -> None:
    """Run the programs, show their results and say where everything is."""
    parser = argparse.ArgumentParser(prog="python -m tamis.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="results go here (%(default)s)")
    parser.add_argument("--only", choices=("code", "images"), help="run one program instead of both")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each arm (%(default)s)")
    options = parser.parse_args(args)
    console = Console() if sys.stdout.isatty() else Console(width=110)  # a table wants more than 80 columns
    folder = _fresh(options.folder)
    started = time.perf_counter()
    _quiet()
    for result in _results(options.only, folder, range(options.seeds), console):
        console.print()
        console.print(code_table(result) if isinstance(result, CodeResults) else image_table(result))
        console.print(result.summary())
        console.print(f"Picture: {result.picture}   numbers: {result.picture.parent / 'metrics.json'}")
    console.print(f"\nDone in {(time.perf_counter() - started) / 60:.1f} minutes; everything is in {folder}/.")


def _results(only: str | None, folder: Path, seeds: range, console: Console) -> list[CodeResults | ImageResults]:
    """Both programs at once, the images' progress in a log file; or one of them alone, with its own progress bars."""
    if only == "code":
        return [run_code(folder / "code", seeds, console)]
    (folder / "images").mkdir(parents=True)
    if only == "images":
        return [run_images(folder / "images", seeds)]
    log = folder / "images.log"
    console.print(f"The noise mask on images runs alongside; its progress is in {log}.")
    with ProcessPoolExecutor(1, get_context("spawn"), _into_log, (log,)) as pool:
        images = pool.submit(run_images, folder / "images", seeds)
        code = run_code(folder / "code", seeds, console)
        if not images.done():
            console.print(f"Waiting for the noise mask; its progress is in {log}.")
        return [code, images.result()]


def _into_log(path: Path) -> None:
    """Send everything that this process prints, progress bars included, into a file."""
    file = path.open("w", encoding="utf-8")
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
    _quiet()


def code_table(results: CodeResults) -> Table:
    """What was trained, on what, before and after."""
    tasks = results.test_tasks
    table = Table(
        title=f"PF-PPO on code: pass@1 on {tasks} unseen Python tasks, ± standard error", title_justify="left"
    )
    for column in ("trained", "on", "greedy before", "greedy after", "sampled after", "s"):
        table.add_column(column)
    before = _rate(results.greedy_of_sft())
    table.add_row(
        "SFT", "2,000 buggy demos", "-", before, _rate(results.sampled_of_sft()), f"{results.sft.seconds:.0f}"
    )
    for arm, seeds in results.arms.items():
        seconds = sum(rates.seconds for rates in seeds) / len(seeds)
        row = (
            "learned reward",
            before,
            _rate(results.greedy(arm)),
            _rate(results.sampled(arm)),
            f"{seconds:.0f}",
        )
        table.add_row(arm, *row)
    fits = ", ".join(f"{name} {fit['value']:.2f}" for name, fit in results.reliability.items())
    table.caption = f"reward model: {results.reward_accuracy:.2f} of unseen pairs ranked right; R^2 by strategy: {fits}"
    return table


def image_table(results: ImageResults) -> Table:
    """The three arms after the same fine-tuning."""
    title = f"Noise mask on phantoms: {results.test_images} test images, {len(results.seeds)} seeds, ± standard error"
    table = Table(title=title, title_justify="left")
    for column in ("trained", "accuracy", "balanced accuracy", "macro F1", "s"):
        table.add_column(column)
    for arm in results.arms:
        metrics = [
            _rate((arm.mean(metric), arm.standard_error(metric)))
            for metric in ("accuracy", "balanced_accuracy", "macro_f1")
        ]
        table.add_row(arm.name, *metrics, f"{sum(arm.seconds) / len(arm.seconds):.0f}")
    gains = ", ".join(f"{gain.mean:+.3f} ± {gain.standard_error:.3f}" for gain in results.learned)
    table.caption = f"reward of learned less that of random masks on held-out images, nats, by seed: {gains}"
    return table


def _rate(rate: tuple[float, float]) -> str:
    return f"{rate[0]:.3f}" if math.isnan(rate[1]) else f"{rate[0]:.3f} ± {rate[1]:.3f}"


def _fresh(folder: Path) -> Path:
    """The folder, or the next free number after it: a second demo leaves the first one alone."""
    number, chosen = 1, folder
    while chosen.exists():
        number += 1
        chosen = folder.with_name(f"{folder.name}-{number}")
    chosen.mkdir(parents=True)
    return chosen


def _quiet() -> None:
    """One thread; leave progress bars and results, drop what every stage says of itself."""
    import torch
    import transformers

    torch.set_num_threads(1)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
