"""A report and a probe set on two processes say what one process says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from .ranks import Ranks, tamis

TEST = "def check(f):\n    assert f() == 1\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tasks, which two processes cannot share evenly; whatever follows the prompt is a comment, for a line."""
    path = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    prompts = [f"def f():\n    return 1\n    #{'x' * index}" for index in range(7)]
    rows = [
        {"task_id": f"t/{index}", "prompt": prompt, "entry_point": "f", "test": TEST}
        for index, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _run(ranks: Ranks, stage: str, folder: Path, flags: list[str], processes: int) -> None:
    flags = [stage, "--model=CodePolicy", "--data=CodeTasks", "--model.max_new_tokens=6", *flags]
    tamis(ranks, processes, folder, [*flags, "--model.critic=none", "--model.reference=false"])


def test_two_processes_report_what_one_does(
    ranks: Ranks, tiny_model: str, reward_folder: Path, source: Path, tmp_path: Path
) -> None:
    flags = [f"--model.model_name_or_path={tiny_model}", "--model.eval_samples=4", "--model.eval_temperature=1.0"]
    flags += ["--model.reward=LearnedReward", f"--model.reward.model_name_or_path={reward_folder}"]
    flags += [f"--data.test={source}", "--data.eval_batch_size=2", "--trainer.logger=false"]
    flags += [
        "--trainer.callbacks+=RewardReliability",
        "--trainer.callbacks.bins=4",
        "--trainer.callbacks.bootstrap=50",
    ]
    for processes in (1, 2):
        _run(ranks, "test", tmp_path / f"run{processes}", flags, processes)
    one, two = (json.loads((tmp_path / f"run{processes}" / "reliability.json").read_text()) for processes in (1, 2))
    assert (one["tasks"], one["samples_per_task"]) == (7, 4)
    assert sum(one["strategies"]["none"]["bin_counts"]) == 28
    assert 0 < one["pass_rate"] < 1
    # Batches of other sizes may round a score otherwise; everything else is the same to the byte.
    assert _rounded(one) == _rounded(two)


def test_two_processes_measure_and_choose_what_one_does(
    ranks: Ranks, tiny_model: str, reward_folder: Path, source: Path, tmp_path: Path
) -> None:
    flags = [f"--model.model_name_or_path={tiny_model}", "--model.num_samples=4", "--model.max_iterations=2"]
    flags += ["--model.reward=LearnedReward", f"--model.reward.model_name_or_path={reward_folder}"]
    flags += [f"--data.train={source}", f"--data.validation={source}"]
    flags += ["--trainer.callbacks+=RewardReliability", "--trainer.callbacks.bins=4", "--trainer.callbacks.probe=7"]
    flags += ["--trainer.callbacks.every_n_iterations=1", "--trainer.callbacks.bootstrap=50"]
    flags += ["--filter=Filtration", "--filter.strategy=auto", "--filter.candidates=[random,best_worst,best_random]"]
    flags += ["--update=ReinforceUpdate", "--update.kl_coef=0", "--trainer.log_every_n_steps=1"]
    flags += ["--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false"]
    found = []
    for processes, batch in ((1, 2), (2, 1)):
        folder = tmp_path / f"run{processes}"
        _run(ranks, "fit", folder, [*flags, f"--data.batch_size={batch}"], processes)
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        probes = [row for row in rows if row["val/probe_reward"]]
        strategies = [float(row["filter/strategy"]) for row in rows if row["filter/strategy"]]
        assert len(probes) == len(strategies) == 2
        # After an update: the same prompts, filter and gradient on both.
        names = [name for name in probes[1] if name.startswith("val/probe") and probes[1][name]]
        found.append(({name: float(probes[1][name]) for name in names}, strategies))
    (one, first), (two, second) = found
    assert len(one) == 8
    assert one == pytest.approx(two, rel=1e-4, nan_ok=True)
    assert first == second
    assert {*first} <= {1.0, 3.0, 4.0}


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value
