"""Two processes on a CPU, started by Lightning itself, as `--trainer.strategy ddp` does."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tamis.cli import run


def test_two_ranks_train_one_policy_into_one_run_directory(workspace: Path, tmp_path: Path) -> None:
    quickstart = workspace / "runs" / "quickstart"
    config = Path(__file__).parent.parent / "configs" / "quickstart" / "pf_ppo.yaml"
    flags = ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2", "--model.max_iterations=2"]
    flags += ["--data.batch_size=4", "--update.minibatch_size=8", "--model.max_new_tokens=8"]
    flags += [f"--model.model_name_or_path={quickstart / 'sft' / 'model'}"]
    flags += [f"--model.reward.model_name_or_path={quickstart / 'reward_model' / 'model'}"]
    flags += [f"--data.train={quickstart / 'tasks' / 'train.jsonl'}[:64]"]
    command = [sys.executable, "-m", "tamis", "fit", f"--config={config}", *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert (run_dir / "model" / "config.json").is_file()
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    assert [float(row["iteration"]) for row in rows] == [1.0, 2.0]
    assert [float(row["filter/rows_kept"]) for row in rows] == [8.0, 8.0]


def test_ranks_that_the_user_starts_need_a_common_directory(
    monkeypatch: pytest.MonkeyPatch, workspace: Path, tiny_model: str
) -> None:
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    monkeypatch.delenv("TAMIS_RUN_DIR", raising=False)
    tasks = workspace / "runs" / "quickstart" / "tasks" / "test.jsonl"
    args = ["test", "--model=CodePolicy", f"--model.model_name_or_path={tiny_model}", "--data=CodeTasks"]
    with pytest.raises(SystemExit, match="give every process the same --run_dir"):
        run([*args, f"--data.test={tasks}"])
