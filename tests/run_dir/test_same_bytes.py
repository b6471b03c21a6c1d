"""Two processes, one seed and configuration: the same tables, byte for byte; and no file holds a secret."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.cli import run

CONFIGS = Path(__file__).parents[2] / "configs" / "quickstart"
SECRET = "correct-h0rse-battery-staple"
COMMON = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]
MASK_CALLBACKS = """[{class_path: RolloutMetrics}, {class_path: MaskGallery, init_args: {images: 2}},
    {class_path: MaskDiagnostics, init_args: {images: 15, draws: 2}}]"""
# The smallest runs that go through everything that draws, sorts or groups.
ARGUMENTS = {
    "code": [
        f"--config={CONFIGS / 'pf_ppo.yaml'}",
        *("--trainer.callbacks+=RolloutTable", "--trainer.callbacks.every_n_iterations=1"),
        *("--data.train=runs/quickstart/tasks/train.jsonl[:40]", "--data.batch_size=8"),
        *("--model.max_new_tokens=8", "--model.max_iterations=3", "--update.minibatch_size=8"),
    ],
    "masks": [
        f"--config={CONFIGS / 'phantoms_noise_mask.yaml'}",
        f"--trainer.callbacks={MASK_CALLBACKS}",
        *("--data.train_images=30", "--data.val_images=15", "--data.test_images=15", "--data.batch_size=8"),
        *("--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=2"),
    ],
}
TABLES = {
    "code": ["metrics.csv", "rollouts.jsonl"],
    "masks": ["metrics.csv"],
}


def commands(folder: Path) -> list[list[str]]:
    return [["fit", *flags, *COMMON, f"--run_dir={folder / name}"] for name, flags in ARGUMENTS.items()]


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with both programs' runs: by this process, with random numbers in whatever state, and by a fresh one."""
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        patch.setenv("HF_TOKEN", SECRET)
        patch.setenv("SOME_API_KEY", SECRET)
        for generator in (torch.manual_seed, np.random.seed, random.seed):
            generator(7)
        for command in commands(here):
            run(command)
        program = f"from tamis.cli import run\nfor command in {commands(there)!r}:\n    run(command)"
        environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return here, there


@pytest.mark.parametrize("program", list(ARGUMENTS))
def test_same_seed_and_config_give_the_same_bytes(program: str, runs: tuple[Path, Path]) -> None:
    here, there = (folder / program for folder in runs)
    for name in TABLES[program]:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
    with (here / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 3
    assert not [name for name in rows[0] if name.startswith("timing/")]
    with (here / "timing.csv").open(newline="") as file:
        assert {"timing/iteration_s", "step"} <= set(next(csv.DictReader(file)))


@pytest.mark.parametrize("program", list(ARGUMENTS))
def test_a_run_says_what_it_was_started_with(program: str, runs: tuple[Path, Path]) -> None:
    command = commands(runs[0])[list(ARGUMENTS).index(program)]
    found = json.loads((runs[0] / program / "run.json").read_text())
    assert found["command"] == ["tamis", *command]
    assert [found["seed"], found["processes"], found["resumed"]] == [0, 1, []]
    there = json.loads((runs[1] / program / "run.json").read_text())
    assert found["datasets"] == there["datasets"] != {}
    assert found["versions"] == there["versions"]


def test_no_file_holds_a_variable_of_the_environment(runs: tuple[Path, Path]) -> None:
    files = [path for folder in runs for path in folder.rglob("*") if path.is_file()]
    assert {"config.yaml", "run.json", "metrics.csv", "timing.csv", "rollouts.jsonl"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
