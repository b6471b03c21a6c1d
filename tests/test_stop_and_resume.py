"""Killed or interrupted on the command line, and resumed there: what is in the run directory in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tamis.cli import run

CONFIGS = Path(__file__).parent.parent / "configs" / "quickstart"
ITERATIONS = 6
COMMON = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=true"]
Arguments = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def code(workspace: Path) -> Arguments:
    """PF-PPO with a learned reward and an adapted KL coefficient."""
    quickstart = workspace / "runs" / "quickstart"
    options = [
        f"--model.model_name_or_path={quickstart / 'sft' / 'model'}",
        f"--model.reward.model_name_or_path={quickstart / 'reward_model' / 'model'}",
        f"--data.train={quickstart / 'tasks' / 'train.jsonl'}[:16]",
        "--data.batch_size=4",
        "--update.minibatch_size=4",
        "--update.kl_target=0.05",
        "--model.max_new_tokens=6",
        f"--model.max_iterations={ITERATIONS}",
    ]
    return lambda run_dir: ["fit", f"--config={CONFIGS / 'pf_ppo.yaml'}", f"--run_dir={run_dir}", *COMMON, *options]


@pytest.fixture(scope="module")
def masks(phantoms: Path) -> Arguments:
    """The noise mask with two loader processes, three batches an epoch, and validation."""
    options = [
        f"--data.root={phantoms}",
        "--data.train_images=30",
        "--data.val_images=15",
        "--data.test_images=15",
        "--data.phantom_size=48",
        "--data.batch_size=10",
        "--data.num_workers=2",
        "--model.backbone=test_resnet",
        "--model.policy_backbone=test_resnet",
        "--trainer.log_every_n_steps=1",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.max_epochs=2",
    ]
    config = CONFIGS / "phantoms_noise_mask.yaml"
    return lambda run_dir: ["fit", f"--config={config}", f"--run_dir={run_dir}", *COMMON, *options]


def stop(arguments: list[str], run_dir: Path, number: int, after: int) -> subprocess.CompletedProcess[str]:
    """Start the command, and send its processes a signal in the iteration behind a checkpoint."""
    command = [sys.executable, "-m", "tamis", *arguments]
    # As many threads as this process has: more would round sums otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, process_group=0, env=environment)
    checkpoint = run_dir / "checkpoints" / f"iteration={after:08d}.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(("program", "name", "status"), [("code", "SIGKILL", -9), ("masks", "SIGTERM", 143)])
def test_a_stopped_run_leaves_what_a_whole_one_leaves(
    program: str,
    name: str,
    status: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments: Arguments = request.getfixturevalue(program)
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    run([*arguments(whole), "--checkpoint.every_n_iterations=1"])
    stopped = stop([*arguments(run_dir), "--checkpoint.every_n_iterations=1"], run_dir, signal.Signals[name], after=2)
    assert stopped.returncode == status, stopped.stderr[-2000:]
    assert "Traceback" not in stopped.stderr
    newest = max((run_dir / "checkpoints").glob("*.ckpt"))
    if name != "SIGKILL":
        assert f"Ended by {name} with {newest}" in stopped.stderr
    assert not (run_dir / "model").exists()
    with caplog.at_level("INFO"):
        run([*arguments(run_dir), "--checkpoint.every_n_iterations=1", "--resume=auto"])
    assert f"going on from {newest}" in caplog.text
    assert (run_dir / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    run([*arguments(run_dir), "--checkpoint.every_n_iterations=1", "--resume=auto"])  # nothing is left to do
    assert (run_dir / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    for path in (whole / "model").iterdir():
        assert (run_dir / "model" / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in run_dir.iterdir() if "events" not in path.name) == sorted(
        [*(path.name for path in whole.iterdir() if "events" not in path.name), "config-2.yaml"]
    )
