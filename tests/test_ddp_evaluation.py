"""Seven problems on two processes give what one process gives: no problem twice, and every sample the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Whatever follows the prompt is a comment, until its line ends: some samples pass and some do not.
TEST = "def check(f):\n    assert f() == 1\n"


def _evaluate(folder: Path, model: str, tasks: Path, processes: int) -> tuple[dict[str, Any], bytes, bytes]:
    """Result, completions and logged metrics of a run."""
    flags = [f"--model.model_name_or_path={model}", "--model.eval_samples=4", "--model.eval_temperature=1.0"]
    flags += ["--model.pass_at=[1,3]", "--model.max_new_tokens=6", "--model.critic=none", "--model.reference=false"]
    flags += [f"--data.test={tasks}", "--data.eval_batch_size=2", f"--run_dir={folder}"]
    flags += ["--trainer.accelerator=cpu", f"--trainer.devices={processes}", "--trainer.callbacks+=CompletionTable"]
    flags += ["--trainer.enable_progress_bar=false"]
    flags += ["--trainer.strategy=ddp"] if processes > 1 else []
    command = [sys.executable, "-m", "tamis", "test", "--model=CodePolicy", "--data=CodeTasks", *flags]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    files = [(folder / name).read_bytes() for name in ("completions.jsonl", "metrics.csv")]
    return json.loads((folder / "results.json").read_text()), files[0], files[1]


def test_two_processes_measure_what_one_does(tiny_model: str, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    prompts = [f"def f():\n    return 1\n    #{'x' * index}" for index in range(7)]
    rows = [
        {"task_id": f"t/{index}", "prompt": prompt, "entry_point": "f", "test": TEST}
        for index, prompt in enumerate(prompts)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = (_evaluate(tmp_path / f"run{processes}", tiny_model, tasks, processes) for processes in (1, 2))
    assert two[0]["numerics"]["processes"] == 2
    assert one[0]["counts"]["samples"] == 28
    assert 0 < one[0]["metrics"]["pass@1"]["value"] < 1
    assert [one[0][key] for key in ("metrics", "counts", "dataset")] == [
        two[0][key] for key in ("metrics", "counts", "dataset")
    ]
    assert one[1:] == two[1:]
