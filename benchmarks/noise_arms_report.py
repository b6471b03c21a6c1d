"""The numbers of `noise_arms.py`, from the metrics that its stages left: a table, the same as Markdown, and JSON."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from arms_report import cpu_seconds, origin, over_seeds, processor
from rich.console import Console
from rich.table import Table
from stages import Folder

SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro F1", "macro_auc": "AUC"}
#: Of the policy, at the end of pretraining: key, heading, digits.
POLICY = (
    ("val/learned_minus_twin_z", "z twin", 1),
    ("val/learned_minus_random_z", "z random", 1),
    ("val/learned_minus_shuffled_z", "z shuffled", 1),
    ("val/gradient_cosine", "cosine", 2),
    ("val/alpha_spread", "spread", 3),
)
HEADER = ("arm", "heated", *SCORES.values(), "accuracy - none", *(heading for _, heading, _ in POLICY), "CPU s")


class Result(NamedTuple):
    """One arm with one seed.

    Attributes:
        pretrained: the last value of everything that pretraining logged.
        test: the test's metrics, after fine-tuning.
        cpu_s: of pretraining.
    """

    pretrained: Mapping[str, float]
    test: Mapping[str, float]
    cpu_s: float


def last_values(path: Path) -> dict[str, float]:
    """The last value in each column of a ``metrics.csv``."""
    with path.open(encoding="utf-8", newline="") as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


def read(folder: Folder, arms: Sequence[str], seeds: int) -> dict[str, list[Result]]:
    """Every arm's results, one a seed."""
    found: dict[str, list[Result]] = {}
    for arm in arms:
        for seed in range(seeds):
            name = f"{arm}_seed_{seed}"
            pretrained, test = (
                last_values(folder.path / name / stage / "metrics.csv") for stage in ("pretrain", "test")
            )
            found.setdefault(arm, []).append(Result(pretrained, test, cpu_seconds(folder, f"{name}_pretrain")))
    return found


def cells(name: str, results: Sequence[Result], base: Sequence[Result] | None) -> tuple[str, ...]:
    """A line of the table."""
    scores = [over_seeds([result.test[f"test/{key}"] for result in results]).text() for key in SCORES]
    heated = over_seeds([result.pretrained["val/accuracy"] for result in results]).text()
    gain = "" if base is None or base is results else accuracy_gain(results, base)
    policy = [
        " ".join(f"{result.pretrained[key]:.{digits}f}" for result in results) if key in results[0].pretrained else ""
        for key, _, digits in POLICY
    ]
    return (name, heated, *scores, gain, *policy, over_seeds([result.cpu_s for result in results]).text(0))


def accuracy_gain(results: Sequence[Result], base: Sequence[Result]) -> str:
    """Paired by seed."""
    pairs = zip(results, base, strict=True)
    return over_seeds([one.test["test/accuracy"] - other.test["test/accuracy"] for one, other in pairs]).text(sign="+")


def notes(folder: Folder, seeds: int) -> list[str]:
    """What the numbers mean, and where they were measured."""
    settings, commits = origin(folder)
    return [
        f"Data: {settings['data']}; flags of every training: {' '.join(settings['flag']) or 'none'}. Mean of {seeds} "
        f"seed{'s' * (seeds > 1)} ± its standard error over seeds. heated: accuracy on clean validation images before "
        "fine-tuning. The other scores are of the test split after the same fine-tuning.",
        "z: the policy's reward on held-out images less that of a twin that never learned, of random masks, of its own "
        "masks for other images, in standard errors, for each seed. cosine: between two halves of the gradient's "
        "draws. spread: of log alpha over images.",
        f"CPU s: user and system, of the whole pretraining process. {processor()}, {os.cpu_count()} cores, one "
        f"thread a process; commit {commits}.",
    ]


def report(folder: Folder, arms: Sequence[str], seeds: int, console: Console) -> None:
    """Print the table and leave arms.json and arms.md in the folder."""
    found = read(folder, arms, seeds)
    base = found.get("none")
    lines = [cells(name, results, base) for name, results in found.items()]
    explained = notes(folder, seeds)
    table = Table(*HEADER)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for text in explained:
        console.print(text, highlight=False)
    rule = ("---",) * len(HEADER)
    rows = "".join(f"| {' | '.join(line)} |\n" for line in (HEADER, rule, *lines))
    (folder.path / "arms.md").write_text(rows + "".join(f"\n{text}\n" for text in explained), encoding="utf-8")
    numbers = {name: [finite(result) for result in results] for name, results in found.items()}
    (folder.path / "arms.json").write_text(json.dumps({"notes": explained, "arms": numbers}, indent=2) + "\n")


def finite(result: Result) -> dict[str, object]:
    """As JSON, which has no NaN."""

    def values(metrics: Mapping[str, float]) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}

    return {"pretrained": values(result.pretrained), "test": values(result.test), "cpu_s": result.cpu_s}
