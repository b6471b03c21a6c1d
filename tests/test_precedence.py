"""Command line over config over checkpoint over default, and what differs is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from tamis.cli import TamisCLI, run
from tamis.run_dir.options import differing_options, options_to_take_over


def arguments(npz: Path, run_dir: Path | None, *options: str) -> list[str]:
    given = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    where = [] if run_dir is None else [f"--run_dir={run_dir}"]
    return ["fit", *given, *where, *options, f"--data.path={npz}"]


CONFIG = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "backbone": "test_resnet",
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.5}},
            "scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}},
        },
    },
    "data": {"class_path": "MedMNIST", "init_args": {"batch_size": 4, "path": "?"}},
    "trainer": {"max_epochs": 3},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precedence") / "run.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def first(config: Path, npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of three epochs, with a checkpoint after each."""
    run_dir = tmp_path_factory.mktemp("first") / "run"
    more = ["--checkpoint.every_n_iterations=3", "--checkpoint.keep=null", "--data.flip=0.25"]
    run(arguments(npz, run_dir, f"--config={config}", *more))
    return run_dir


def at(run_dir: Path, iteration: int) -> str:
    return f"--ckpt_path={run_dir / 'checkpoints' / f'iteration={iteration:08d}.ckpt'}"


def rates(cli: TamisCLI) -> tuple[float, float, float]:
    group = cli.trainer.optimizers[0].param_groups[0]
    return group["lr"], group["initial_lr"], group["momentum"]


def test_without_a_change_the_run_goes_on_as_it_was(config: Path, first: Path, npz: Path, tmp_path: Path) -> None:
    cli = run(arguments(npz, tmp_path / "run", f"--config={config}", at(first, 6)))
    assert rates(cli) == pytest.approx((0.01, 0.1, 0.5))
    assert cli.trainer.current_epoch == 3


def test_the_command_line_beats_config_and_checkpoint(
    config: Path, first: Path, npz: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ["--model.optimizer.init_args.lr=0.5", "--model.optimizer.init_args.momentum=0.8"]
    with caplog.at_level("INFO"):
        cli = run(arguments(npz, tmp_path / "run", f"--config={config}", at(first, 6), *changes))
    assert rates(cli) == pytest.approx((0.05, 0.5, 0.8))  # the schedule has divided it by ten once, in epoch 2
    assert "model.optimizer.lr: 0.1 -> 0.5" in caplog.text
    assert "lr: 0.1 in the checkpoint, 0.5 from now on" in caplog.text
    assert "momentum: 0.5 in the checkpoint, 0.8 from now on" in caplog.text
    assert "backbone" not in caplog.text


def test_a_schedule_that_is_changed_is_another_one(config: Path, first: Path, npz: Path, tmp_path: Path) -> None:
    changes = ["--model.scheduler.init_args.step_size=1", "--trainer.max_epochs=4"]
    cli = run(arguments(npz, tmp_path / "run", f"--config={config}", at(first, 6), *changes))
    assert rates(cli)[0] == pytest.approx(0.1 * 0.1**4)


def test_what_neither_says_is_as_in_the_checkpoint(config: Path, first: Path, npz: Path, tmp_path: Path) -> None:
    """The config says nothing of flips, the class 0.0, the checkpoint's run .25."""
    cli = run(arguments(npz, tmp_path / "run", f"--config={config}", at(first, 9)))
    assert cli.datamodule.augmentation.flip == 0.25
    alone = run(arguments(npz, tmp_path / "alone", at(first, 9)))
    assert alone.model.backbone == "test_resnet"
    assert alone.trainer.max_epochs == 3
    changed = run(arguments(npz, tmp_path / "changed", f"--config={config}", at(first, 9), "--data.flip=0.5"))
    assert changed.datamodule.augmentation.flip == 0.5


def test_a_test_needs_no_more_than_the_checkpoint(first: Path, tmp_path: Path) -> None:
    cli = run(["test", at(first, 9), f"--run_dir={tmp_path / 'test'}", "--trainer.accelerator=cpu"])
    assert cli.model.backbone == "test_resnet"
    assert cli.datamodule.batch_size == 4
    assert "test/accuracy" in cli.trainer.callback_metrics
    record = json.loads((tmp_path / "test" / "run.json").read_text())
    assert record["command"][:2] == ["tamis", "test"]
    assert record["datasets"].keys() == {"test"}


def test_the_config_of_a_resumed_run_runs_again(config: Path, first: Path, npz: Path, tmp_path: Path) -> None:
    run(arguments(npz, tmp_path / "run", f"--config={config}", at(first, 6)))
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["data"]["init_args"]["flip"] == 0.25
    run(["fit", f"--config={tmp_path / 'run' / 'config.yaml'}", f"--run_dir={tmp_path / 'again'}"])


@pytest.mark.parametrize(
    ("change", "difference", "message"),
    [
        (
            "--data.batch_size=6",
            "other_batch_size",
            "items a batch of all processes: 4 in the checkpoint, 6 in this run",
        ),
        ("--data.shots=2", "other_data", "the train data .digest.: "),
    ],
)
def test_another_problem_is_refused_unless_asked_for(
    change: str, difference: str, message: str, config: Path, first: Path, npz: Path, tmp_path: Path
) -> None:
    given = arguments(npz, tmp_path / "run", f"--config={config}", at(first, 6), change)
    with pytest.raises(ValueError, match=rf"{message}.*resume_despite '.{difference}.'"):
        run(given)
    run([*given, f"--checkpoint.resume_despite=[{difference}]"])


def test_a_checkpoint_holds_tensors_and_primitives(first: Path) -> None:
    for path in (first / "checkpoints").iterdir():
        content = torch.load(path, weights_only=True)
        assert content["tamis"]["world_size"] == 1
        assert content["tamis"]["data"].keys() == {"train", "val"}
        assert {"torch", "lightning"} <= content["tamis"]["versions"].keys()


def test_resume_takes_the_newest_whole_one(
    config: Path, first: Path, npz: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    for iteration in (3, 6, 9):
        name = f"iteration={iteration:08d}.ckpt"
        content = (first / "checkpoints" / name).read_bytes()
        (run_dir / "checkpoints" / name).write_bytes(content if iteration < 9 else content[:-100])
    with caplog.at_level("INFO"):
        cli = run(arguments(npz, run_dir, f"--config={config}", "--resume=auto"))
    assert f"going on from {run_dir / 'checkpoints' / 'iteration=00000006.ckpt'}" in caplog.text
    assert "iteration=00000009.ckpt" in caplog.text
    assert cli.trainer.global_step == 9


def test_auto_without_a_checkpoint_begins_at_the_beginning(config: Path, npz: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "metrics.csv").write_text("epoch,step,val/loss\n0,3,1.0\n")  # killed before its first checkpoint
    cli = run(arguments(npz, run_dir, f"--config={config}", "--resume=auto", "--trainer.max_epochs=1"))
    assert cli.trainer.global_step == 3
    assert "val/loss" not in (run_dir / "metrics.csv").read_text()
    assert "val/loss" in (run_dir / "before-1" / "metrics.csv").read_text()
    for path in (run_dir / "checkpoints").iterdir():
        path.unlink()
    (run_dir / "model").mkdir()
    with pytest.raises(SystemExit, match="the model of a finished run that wrote no checkpoints"):
        run(arguments(npz, run_dir, f"--config={config}", "--resume=auto"))


def test_a_directory_with_a_run_says_how_to_go_on(config: Path, first: Path, npz: Path) -> None:
    with pytest.raises(SystemExit, match=r"is not empty.*`--resume auto`"):
        run(arguments(npz, first, f"--config={config}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume=missing.ckpt"], "--resume missing.ckpt: there is no such checkpoint"),
        (["--ckpt_path=last"], "Lightning's word for a file of its own callback.*--resume auto"),
        (["--resume=auto", "--ckpt_path=x.ckpt"], "both name a checkpoint; give one of them"),
    ],
)
def test_options_that_do_not_fit(options: list[str], message: str, config: Path, npz: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(arguments(npz, tmp_path / "run", f"--config={config}", *options))


def test_options_by_hand() -> None:
    same = "seed_everything: 0\n"
    then = same + "run_dir: a\nmodel: {class_path: A, init_args: {x: 1, y: [1, 2]}}\ntrainer: {devices: 2}\n"
    now = same + "run_dir: b\nmodel: {class_path: A, init_args: {x: 2, y: [1, 2]}}\nfilter: {class_path: F}\n"
    found = differing_options(then, now)
    assert found == ["model.x: 1 -> 2", "trainer.devices: 2 -> not set", "filter.class_path: not set -> F"]
    model = {"class_path": "A", "init_args": {"x": 1, "y": [1, 2]}}
    assert yaml.safe_load(options_to_take_over(then, "test")) == {"model": model}
    assert "run_dir" not in options_to_take_over(then, "fit")
