"""Seven problems on two processes give what one process gives: no problem twice, and every sample the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .ranks import Ranks, tamis

# Whatever follows the prompt is a comment, until its line ends: some samples pass and some do not.
TEST = "def check(f):\n    assert f() == 1\n"


def _evaluate(
    ranks: Ranks, folder: Path, model: str, tasks: Path, processes: int
) -> tuple[dict[str, Any], bytes, bytes]:
    """Result, completions and logged metrics of a run."""
    flags = [f"--model.model_name_or_path={model}", "--model.eval_samples=4", "--model.eval_temperature=1.0"]
    flags += ["--model.pass_at=[1,3]", "--model.max_new_tokens=6", "--model.critic=none", "--model.reference=false"]
    flags += [f"--data.test={tasks}", "--data.eval_batch_size=2", "--trainer.callbacks+=CompletionTable"]
    tamis(ranks, processes, folder, ["test", "--model=CodePolicy", "--data=CodeTasks", *flags])
    files = [(folder / name).read_bytes() for name in ("completions.jsonl", "metrics.csv")]
    return json.loads((folder / "results.json").read_text()), files[0], files[1]


def test_two_processes_measure_what_one_does(ranks: Ranks, tiny_model: str, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    prompts = [f"def f():\n    return 1\n    #{'x' * index}" for index in range(7)]
    rows = [
        {"task_id": f"t/{index}", "prompt": prompt, "entry_point": "f", "test": TEST}
        for index, prompt in enumerate(prompts)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = (_evaluate(ranks, tmp_path / f"run{processes}", tiny_model, tasks, processes) for processes in (1, 2))
    assert two[0]["numerics"]["processes"] == 2
    assert one[0]["counts"]["samples"] == 28
    assert 0 < one[0]["metrics"]["pass@1"]["value"] < 1
    assert [one[0][key] for key in ("metrics", "counts", "dataset")] == [
        two[0][key] for key in ("metrics", "counts", "dataset")
    ]
    assert one[1:] == two[1:]
