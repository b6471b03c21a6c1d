"""The command line, as a user meets it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from lightning.pytorch import Trainer

from tamis.cli import main, run

PF_PPO = str(Path(__file__).parent.parent / "configs" / "quickstart" / "pf_ppo.yaml")


def _printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        run([*args, "--print_config"])
    assert stop.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def _error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(args)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_short_names_and_single_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--filter.strategy", "best_random", "--update.clip_range=0.1", "--model.num_samples=7"]
    config = _printed_config(capsys, "fit", "--config", PF_PPO, *flags)
    assert config["model"]["class_path"] == "tamis.modules.CodePolicy"
    assert config["model"]["init_args"]["num_samples"] == 7
    assert config["filter"]["init_args"]["strategy"] == "best_random"
    assert config["filter"]["init_args"]["keep"] == 2  # from the file: the rest stays
    assert config["update"]["init_args"]["clip_range"] == 0.1


def test_the_update_is_exchanged_by_one_flag(capsys: pytest.CaptureFixture[str]) -> None:
    config = _printed_config(capsys, "fit", "--config", PF_PPO, "--update", "ReinforceUpdate")
    assert config["update"]["class_path"] == "tamis.callbacks.ReinforceUpdate"
    assert config["update"]["init_args"]["baseline"] == "leave_one_out"


def test_a_printed_config_runs_again_unchanged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = _printed_config(capsys, "fit", "--config", PF_PPO)
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(config))
    assert _printed_config(capsys, "fit", "--config", str(path)) == config


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--trainer.max_epoch", "3"], "Did you mean 'trainer.max_epochs'?"),
        (["--run_dirr", "x"], "Did you mean 'run_dir'?"),
        (["--model.num_sample", "3"], "Did you mean 'num_samples'?"),
        (["--update.clip_rang", "0.1"], "Did you mean 'clip_range'?"),
        (["--update", "PPOUpdat"], "Did you mean 'PPOUpdate'?"),
        (["--filter.strategy", "best_wurst"], "'best_worst', 'top'"),
        (["--update.epochs", "many"], "Got value: many"),
    ],
)
def test_a_wrong_key_names_the_nearest_right_one(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = _error(capsys, "fit", "--config", PF_PPO, *flags)
    assert expected in message
    assert len(message.splitlines()) < 10


def test_a_missing_model_folder_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    message = _error(capsys, "fit", "--config", PF_PPO, "--model.reward.model_name_or_path", "no/such/model")
    assert "there is no model folder 'no/such/model'" in message
    assert len(message.splitlines()) < 5


def test_a_run_directory_is_never_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str, quickstart: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["validate", "--model", "SupervisedFineTuning", "--model.model_name_or_path", tiny_model]
    args += ["--data", "Instructions", "--data.train", f"{quickstart / 'tasks' / 'demonstrations.jsonl'}"]
    args += ["--data.validation", f"{quickstart / 'tasks' / 'demonstrations.jsonl'}[:8]"]
    first, second = run(args), run(args)
    assert first.trainer.default_root_dir == "runs/SupervisedFineTuning-1"
    assert second.trainer.default_root_dir == "runs/SupervisedFineTuning-2"
    with pytest.raises(SystemExit, match="run directory runs/SupervisedFineTuning-1 is not empty"):
        run([*args, "--run_dir", "runs/SupervisedFineTuning-1"])


def test_one_batch_is_one_batch_whatever_was_imported_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after unlucky imports; 1.0 would be all batches."""
    hints = inspect.unwrap(Trainer.__init__).__annotations__
    monkeypatch.setitem(hints, "limit_train_batches", float | int | None)
    assert get_args(hints["limit_train_batches"])[0] is float
    for given, meant in (("1", 1), ("1.0", 1.0), ("0.5", 0.5)):
        flags = [f"--trainer.limit_train_batches={given}"]
        limit = _printed_config(capsys, "fit", "--config", PF_PPO, *flags)["trainer"]["limit_train_batches"]
        assert (limit, type(limit)) == (meant, type(meant))
    assert hints["limit_train_batches"] == int | float | None
    assert _printed_config(capsys, "fit", "--config", PF_PPO)["trainer"]["limit_train_batches"] is None


def test_start_up_imports_nothing_heavy_and_the_module_is_the_command() -> None:
    """What `tamis --help` loads: Lightning's own imports and ours, none of the libraries that a run needs later."""
    heavy = ["transformers", "timm", "monai", "torchvision", "peft", "matplotlib", "tensorboard", "tokenizers"]
    program = f"""
import runpy, sys
import lightning.pytorch.cli
before = {{name for name in {heavy!r} if name in sys.modules}}
sys.argv = ["tamis", "--help"]
try:
    runpy.run_module("tamis", run_name="__main__", alter_sys=True)  # what `python -m tamis --help` does
except SystemExit as end:
    print("ended", end.code)
print("and ours", {{name for name in {heavy!r} if name in sys.modules}} - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "fit" in result.stdout
    assert "Train policies by policy gradient" in result.stdout
    assert result.stdout.endswith("ended 0\nand ours set()\n")


def test_a_broken_file_is_one_line_and_the_run_may_be_tried_again(
    tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "demos.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n{oops\n')
    command = ["tamis", "fit", "--model=SupervisedFineTuning", "--data=Instructions"]
    command += [f"--model.model_name_or_path={tiny_model}", f"--data.train={rows}", f"--run_dir={tmp_path / 'run'}"]
    command += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--data.batch_size=1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    told = capfd.readouterr().err
    assert f"tamis: error: {rows}:2: not valid JSON" in told
    assert "Traceback" not in told
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    main()


def test_the_command_line_beats_the_checkpoint(workspace: Path, tmp_path: Path) -> None:
    """A resumed run goes on counting, with the options of today."""
    quickstart = workspace / "runs" / "quickstart"
    args = ["fit", "--config", PF_PPO, "--trainer.accelerator=cpu", "--trainer.enable_checkpointing=true"]
    args += [f"--model.model_name_or_path={quickstart / 'sft' / 'model'}", "--model.max_new_tokens=4"]
    args += [f"--model.reward.model_name_or_path={quickstart / 'reward_model' / 'model'}"]
    args += [f"--data.train={quickstart / 'tasks' / 'train.jsonl'}[:32]", "--data.batch_size=4"]
    args += ["--update.minibatch_size=8", "--trainer.enable_progress_bar=false"]
    run([*args, f"--run_dir={tmp_path / 'first'}", "--model.max_iterations=1"])
    (checkpoint,) = (tmp_path / "first" / "checkpoints").glob("*.ckpt")
    more = ["--model.max_iterations=3", f"--ckpt_path={checkpoint}", f"--run_dir={tmp_path / 'second'}"]
    resumed = run([*args, *more])
    assert resumed.model.max_iterations == 3
    assert resumed.model.iteration == 3
