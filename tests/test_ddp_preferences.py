"""Preference pairs and the reward model on two processes: what one process writes, and what one process measures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tamis.datamodules import Preferences

from .ranks import Ranks, tamis

# Whatever follows the prompt is a comment, until its line ends: some samples pass and some do not.
TEST = "def check(f):\n    assert f() == 1\n"


def test_one_rank_writes_the_samples_of_both(ranks: Ranks, tiny_model: str, tmp_path: Path) -> None:
    """Seven tasks in batches of two, so that the ranks' shares and batches are uneven."""
    prompts = [f"def f():\n    return 1\n    #{'x' * (7 - index)}" for index in range(7)]
    rows = [
        {"task_id": f"t/{index}", "prompt": prompt, "entry_point": "f", "test": TEST}
        for index, prompt in enumerate(prompts)
    ]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["predict", "--model=CodePolicy", "--data=CodeTasks", "--trainer.callbacks+=PreferenceWriter"]
    flags += [f"--model.model_name_or_path={tiny_model}", "--model.num_samples=4", "--model.max_new_tokens=6"]
    flags += ["--model.critic=none", "--model.reference=false", f"--data.predict={tasks}", "--data.eval_batch_size=2"]
    flags += ["--trainer.callbacks.pairs=random", "--return_predictions=false"]
    one, two = (tamis(ranks, processes, tmp_path / f"run{processes}", flags) for processes in (1, 2))
    samples = [json.loads(line) for line in (two / "samples.jsonl").open()]
    assert len(samples) == 28
    assert {sample["passed"] for sample in samples} == {True, False}
    for name in ("samples.jsonl", "pairs.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_two_ranks_measure_the_same_pairs_once(ranks: Ranks, reward_folder: Path, pairs: Path, tmp_path: Path) -> None:
    """An odd number of held-out pairs: the sampler repeats one of them on the other rank."""
    data = Preferences(str(pairs), validation_share=0.1)
    data.setup("validate")
    count = len(data.records["validation"]) - (len(data.records["validation"]) + 1) % 2
    kept = tmp_path / "pairs.jsonl"
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in (data.records["validation"][:count])]
    rows += [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in data.records["train"][:4]]
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert count % 2 == 1
    flags = ["validate", "--model=RewardModel", f"--model.model_name_or_path={reward_folder}", "--data=Preferences"]
    flags += [f"--data.path={kept}", "--data.eval_batch_size=3"]
    found = []
    for processes in (1, 2):
        folder = tamis(ranks, processes, tmp_path / f"run{processes}", flags)
        (row,) = csv.DictReader((folder / "metrics.csv").open())
        found.append({name: float(value) for name, value in row.items() if name.startswith("val/")})
    assert len(found[0]) == 13
    assert found[1] == pytest.approx(found[0], abs=1e-5)
