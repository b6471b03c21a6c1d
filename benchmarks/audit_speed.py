"""Files a second of the audit's scan, against a loop that only reads, hashes and decodes them.

    python benchmarks/audit_speed.py [--images 1000] [--turns 5] [--size 224] [--json FILE]

Phantoms of 224 pixels as PNG files. The bare loop reads a file's bytes, takes their SHA-256 and decodes them into an
array with Pillow; the scan also hashes the pixels, measures grey values and makes records. Both run in one thread of
this process and take turns, so that a change of the machine's pace meets both, and the least of the turns counts. With
two threads the scan is measured once more, against the scan with one.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from tamis.datamodules.phantom_drawing import Canvas
from tamis.datamodules.phantoms import CLASSES, draw_class
from tamis.datamodules.scanning import scan_files

AIM = 0.80
#: Phantoms that are drawn; each is written several times, since drawing takes longer than anything that is measured.
DRAWN = 10 * len(CLASSES)


def write_images(folder: Path, count: int, size: int) -> list[str]:
    """Phantoms of all classes, in turn."""
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_class(kind.label, Canvas(DRAWN // len(CLASSES), size, generator)) for kind in CLASSES]
    images = torch.cat(drawn).numpy()
    names = [f"{number:06d}.png" for number in range(count)]
    for number, name in enumerate(names):
        Image.fromarray(images[number % len(images)]).save(folder / name)
    return names


def bare_loop(folder: Path, names: list[str]) -> None:
    """Read, hash, decode."""
    for name in names:
        content = (folder / name).read_bytes()
        sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            np.array(image)


def scan(folder: Path, names: list[str], workers: int) -> None:
    """The audit's scan; nothing is kept."""
    failed = [record for record in scan_files(folder, names, workers) if record.error]
    if failed:
        raise RuntimeError(f"{failed[0].file}: {failed[0].error}")


def least_seconds(tasks: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Of each task, the least of its turns; the first round does not count, which fills the disk's cache."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(turns + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = write_images(folder, options.images, options.size)
        tasks: dict[str, Callable[[], None]] = {
            "bare loop": lambda: bare_loop(folder, names),
            "scan": lambda: scan(folder, names, 1),
            "scan, two threads": lambda: scan(folder, names, 2),
        }
        seconds = least_seconds(tasks, options.turns)
    rates = {name: options.images / value for name, value in seconds.items()}
    ratio = rates["scan"] / rates["bare loop"]
    table = Table(title=f"{options.images} PNG files of {options.size} pixels", title_justify="left", box=None)
    for header in ("", "files/s", "of the bare loop", "aim"):
        table.add_column(header, justify="left" if not header else "right")
    for name, rate in rates.items():
        aim = f"at least {AIM:.2f}" if name == "scan" else ""
        table.add_row(name, f"{rate:.0f}", f"{rate / rates['bare loop']:.2f}", aim)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"files_per_s": rates, "ratio": ratio, "aim": AIM}, indent=2) + "\n")


if __name__ == "__main__":
    main()
