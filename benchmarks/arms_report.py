"""The numbers of `arms.py`, from the files that its stages left: a table, the same as Markdown, and JSON."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table
from stages import Folder

HEADER = ("arm", "rows / steps", "greedy", "gain", "sampled", "gain", "CPU s", "reward", "KL")
KINDS = ("greedy", "sampled")


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: over seeds.
        error: its standard error over seeds; NaN for one seed.
        task_error: its standard error over tasks, for differences that are paired by task.
    """

    mean: float
    error: float
    task_error: float = math.nan

    def text(self, digits: int = 3, sign: str = "") -> str:
        """For the table; the tasks' error is in brackets."""
        text = f"{self.mean:{sign}.{digits}f}"
        text += "" if math.isnan(self.error) else f" ± {self.error:.{digits}f}"
        return text if math.isnan(self.task_error) else f"{text} ({self.task_error:.{digits}f})"


class Rates(NamedTuple):
    """pass@1 of one model: of all tasks, and task by task."""

    value: float
    tasks: Mapping[str, float]


class Training(NamedTuple):
    """What one training left: its cost, and the last iteration's rewards (all rows) and KL (rows learned from)."""

    cpu_s: float
    loop_s: float
    reward: float
    kl: float
    rows: int
    steps: int


class Arm(NamedTuple):
    """One arm; every list has an entry a seed."""

    training: list[Training]
    rates: dict[str, list[Rates]]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and standard error, the seeds' sample standard deviation over the root of their number."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(statistics.fmean(values), error)


def difference(after: Sequence[Rates], before: Sequence[Rates]) -> Estimate:
    """Paired by seed; and the standard error over tasks of the tasks' own mean differences."""
    pairs = list(zip(after, before, strict=True))
    tasks = sorted(set.intersection(*(set(rates.tasks) for pair in pairs for rates in pair)))
    each = [statistics.fmean(a.tasks[task] - b.tasks[task] for a, b in pairs) for task in tasks]
    return over_seeds([a.value - b.value for a, b in pairs])._replace(task_error=over_seeds(each).error)


def read_rates(run_dir: Path) -> Rates:
    """pass@1 as `CompletionTable` wrote it, and every task's share of passed samples; those without verdict are out."""
    result = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    samples: dict[str, list[bool]] = {}
    for line in (run_dir / "completions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["status"] != "internal":
            samples.setdefault(row["task_id"], []).append(row["passed"])
    return Rates(result["metrics"]["pass@1"]["value"], {task: statistics.fmean(row) for task, row in samples.items()})


def read_training(folder: Folder, name: str, run_dir: Path) -> Training:
    """Cost, and the last line of the metrics."""
    with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rollout/reward_mean"]]
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    with (run_dir / "timing.csv").open(encoding="utf-8", newline="") as file:
        loop_s = sum(float(row["timing/iteration_s"]) for row in csv.DictReader(file))
    reward, kl = (float(rows[-1][name]) for name in ("rollout/reward_mean", "rollout/kl"))
    return Training(cpu_seconds(folder, name), loop_s, reward, kl, *sizes(config))


def cpu_seconds(folder: Folder, name: str) -> float:
    """What a finished stage has cost."""
    record = folder.record(name)
    if record is None:
        raise FileNotFoundError(f"{folder.path} has no record of {name}")
    return float(record["cpu_s"])


def sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows that an iteration learns from, and its optimiser steps."""
    filtration = config.get("filter")
    keep = config["model"]["init_args"]["num_samples"] if filtration is None else filtration["init_args"]["keep"]
    rows = int(keep) * int(config["data"]["init_args"]["batch_size"])
    update = config["update"]["init_args"]
    return rows, rows // int(update["minibatch_size"]) * int(update["epochs"])


def read(folder: Folder, home: str, arms: Sequence[str], seeds: int) -> tuple[Arm, dict[str, Arm]]:
    """The SFT model and the arms. The SFT model is greedy in one way only, whatever the seed."""
    root = folder.path / home
    sft = {"sampled": [read_rates(root / f"sft_sampled_seed_{seed}") for seed in range(seeds)]}
    sft["greedy"] = [read_rates(root / "sft_greedy")] * seeds
    result = {}
    for arm in arms:
        names = [f"{arm}_seed_{seed}" for seed in range(seeds)]
        rates = {kind: [read_rates(root / f"{name}_{kind}") for name in names] for kind in KINDS}
        result[arm] = Arm([read_training(folder, name, root / name) for name in names], rates)
    return Arm([], sft), result


def cells(name: str, arm: Arm, sft: Arm) -> tuple[str, ...]:
    """A line of the table."""
    rates = {kind: over_seeds([rates.value for rates in arm.rates[kind]]) for kind in KINDS}
    if not arm.training:
        return (name, "", f"{rates['greedy'].mean:.3f}", "", rates["sampled"].text(), "", "", "", "")
    gains = {kind: difference(arm.rates[kind], sft.rates[kind]).text(sign="+") for kind in KINDS}
    pass_at_1 = [text for kind in KINDS for text in (rates[kind].text(), gains[kind])]
    first = arm.training[0]
    costs = [
        over_seeds([getattr(one, what) for one in arm.training]).text(digits)
        for what, digits in (("cpu_s", 1), ("reward", 2), ("kl", 2))
    ]
    return (name, f"{first.rows} / {first.steps}", *pass_at_1, *costs)


def against(name: str, arm: Arm, base_name: str, base: Arm, start_up: float) -> str:
    """One arm beside another with the same seeds, in a sentence."""
    differences = {kind: difference(arm.rates[kind], base.rates[kind]).text(sign="+") for kind in KINDS}
    pairs = zip(arm.training, base.training, strict=True)
    ratio = over_seeds([(a.cpu_s - start_up) / (b.cpu_s - start_up) for a, b in pairs])
    kinds = ", ".join(f"{kind} {text}" for kind, text in differences.items())
    return f"{name} - {base_name}: {kinds}; CPU seconds less start-up {ratio.text(2)} times as many"


def notes(folder: Folder, seeds: int, tasks: int, start_up: float) -> list[str]:
    """What the numbers mean, and where they were measured."""
    settings, commits = origin(folder)
    return [
        f"pass@1 on {tasks} test tasks, greedy and with {settings['samples']} samples a task at temperature 1; mean of "
        f"{seeds} seed{'s' * (seeds > 1)} ± its standard error over seeds. Gain: over the SFT model, paired by seed; "
        "in brackets its standard error over tasks, paired by task.",
        "rows / steps: rows learned from and optimiser steps an iteration. CPU s: user and system, of the whole "
        f"training process; {start_up:.1f} of them are its start-up. Reward (all rows) and KL (rows learned from, nats "
        "a response): of the last iteration.",
        f"{processor()}, {os.cpu_count()} cores, one thread a process; commit {commits}.",
    ]


def origin(folder: Folder) -> tuple[dict[str, Any], str]:
    """The settings of a folder's stages, and the commits that they ran at."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.path.glob("stages/*.json"))]
    settings: dict[str, Any] = json.loads((folder.path / "settings.json").read_text(encoding="utf-8"))
    return settings, ", ".join(sorted({record["commit"] for record in records}))


def processor() -> str:
    """Its name, or its kind where that is all there is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def as_json(sft: Arm, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """Every seed's numbers, in full."""

    def rates(arm: Arm) -> dict[str, list[float]]:
        return {kind: [one.value for one in arm.rates[kind]] for kind in KINDS}

    def gains(arm: Arm) -> dict[str, dict[str, float | None]]:
        found = {f"{kind}_gain": difference(arm.rates[kind], sft.rates[kind])._asdict() for kind in KINDS}
        return {name: {k: None if math.isnan(v) else v for k, v in gain.items()} for name, gain in found.items()}

    training = {name: {"training": [one._asdict() for one in arm.training]} for name, arm in arms.items()}
    return {"sft": rates(sft), "arms": {name: rates(arm) | gains(arm) | training[name] for name, arm in arms.items()}}


def report(folder: Folder, home: str, arms: Sequence[str], seeds: int, console: Console) -> None:
    """Print the table and leave arms.json and arms.md in the folder."""
    sft, found = read(folder, home, arms, seeds)
    lines = [cells("SFT", sft, sft), *(cells(name, arm, sft) for name, arm in found.items())]
    base = next(name for name in ("ppo_m", *found) if name in found)
    start_up = cpu_seconds(folder, "start_up")
    texts = [against(name, arm, base, found[base], start_up) for name, arm in found.items() if name != base]
    explained = notes(folder, seeds, len(sft.rates["greedy"][0].tasks), start_up)
    table = Table(*HEADER)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for text in (*texts, *explained):
        console.print(text, highlight=False)
    rule = ("---",) * len(HEADER)
    rows = "".join(f"| {' | '.join(line)} |\n" for line in (HEADER, rule, *lines))
    after = "".join(f"\n- {text}" for text in texts) + "".join(f"\n\n{text}" for text in explained)
    (folder.path / "arms.md").write_text(f"{rows}{after}\n", encoding="utf-8")
    numbers = {"seeds": seeds, "notes": explained, **as_json(sft, found)}
    (folder.path / "arms.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
