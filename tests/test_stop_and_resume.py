"""Killed, interrupted and resumed from the command line: what is in the run directory in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tamis.cli import run

PF_PPO = Path(__file__).parent.parent / "configs" / "quickstart" / "pf_ppo.yaml"
ITERATIONS = 6


def arguments(workspace: Path, run_dir: Path, *options: str) -> list[str]:
    quickstart = workspace / "runs" / "quickstart"
    return [
        "fit",
        f"--config={PF_PPO}",
        f"--run_dir={run_dir}",
        f"--model.model_name_or_path={quickstart / 'sft' / 'model'}",
        f"--model.reward.model_name_or_path={quickstart / 'reward_model' / 'model'}",
        f"--data.train={quickstart / 'tasks' / 'train.jsonl'}[:16]",
        "--data.batch_size=4",
        "--update.minibatch_size=4",
        "--update.kl_target=0.05",
        "--model.max_new_tokens=6",
        f"--model.max_iterations={ITERATIONS}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=true",
        "--checkpoint.every_n_iterations=1",
        *options,
    ]


@pytest.fixture(scope="module")
def whole(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing has stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run(arguments(workspace, run_dir))
    return run_dir


def stop(workspace: Path, run_dir: Path, number: int, after: int) -> subprocess.CompletedProcess[str]:
    """Start the command, and send it a signal in the iteration behind a checkpoint."""
    command = [sys.executable, "-m", "tamis", *arguments(workspace, run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoint = run_dir / "checkpoints" / f"iteration={after:08d}.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(("name", "status"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stopped_run_leaves_what_a_whole_one_leaves(
    name: str, status: int, workspace: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    stopped = stop(workspace, run_dir, signal.Signals[name], after=2)
    assert stopped.returncode == status, stopped.stderr[-2000:]
    assert "Traceback" not in stopped.stderr
    newest = max((run_dir / "checkpoints").glob("*.ckpt"))
    if name != "SIGKILL":
        assert f"Ended by {name} with {newest}" in stopped.stderr
    assert not (run_dir / "model").exists()
    with caplog.at_level("INFO"):
        run(arguments(workspace, run_dir, "--resume=auto"))
    assert f"going on from {newest}" in caplog.text
    assert (run_dir / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    for file in ("model.safetensors", "config.json"):
        assert (run_dir / "model" / file).read_bytes() == (whole / "model" / file).read_bytes()
    last = [(folder / "checkpoints" / f"iteration={ITERATIONS:08d}.ckpt") for folder in (run_dir, whole)]
    assert all(path.is_file() for path in last)
