"""The learning-rate paths of the published recipes, and averaging and probing from the command line."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from tamis.cli import run
from tamis.modules import ImageClassifier


def options(config: str, root: Path, run_dir: Path) -> list[str]:
    path = files("tamis.configs").joinpath("radimagenet", config)
    small = ["--data.image_size=32", "--data.batch_size=10", "--data.num_workers=0", "--model.backbone=test_resnet"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=1"]
    return [f"--config={path}", f"--run_dir={run_dir}", f"--data.root={root}", *small, *quiet]


def rates_of(config: str, epochs: int, root: Path, folder: Path, *more: str) -> list[float]:
    """The optimiser's learning rate in each epoch, by stepping the config's own schedule without training."""
    cli = run(["fit", *options(config, root, folder / "run"), "--trainer.max_epochs=0", *more])
    made = cli.model.configure_optimizers()
    rates = []
    for _ in range(epochs):
        (group,) = made["optimizer"].param_groups
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
        rates.append(group["lr"])
        made["optimizer"].step()
        made["lr_scheduler"].step()
    return rates


def test_the_baselines_rate_falls_tenfold_every_30_epochs(tmp_path: Path, phantoms: Path) -> None:
    rates = rates_of("baseline.yaml", 90, phantoms, tmp_path)
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30, rel=1e-9)
    assert "max_epochs: 90" in files("tamis.configs").joinpath("radimagenet", "baseline.yaml").read_text()


def test_fine_tuning_warms_up_for_7_of_10_epochs(tmp_path: Path, phantoms: Path) -> None:
    ImageClassifier("test_resnet", num_classes=165).export(tmp_path / "heated")
    rates = rates_of("finetune.yaml", 10, phantoms, tmp_path, f"--model.weights={tmp_path / 'heated'}")
    # From 0.01 to 1 times 1e-3 in 7 equal steps of 0.99 / 7 = 0.141428...; the published StepLR(30) never comes.
    by_hand = [1e-5, 1.5142857e-4, 2.9285714e-4, 4.3428571e-4, 5.7571429e-4, 7.1714286e-4, 8.5857143e-4]
    assert rates == pytest.approx([*by_hand, 1e-3, 1e-3, 1e-3], rel=1e-6)
    assert "max_epochs: 10" in files("tamis.configs").joinpath("radimagenet", "finetune.yaml").read_text()


def state(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): tensor for name, tensor in tensors.items()}


def test_averaging_reaches_export_validation_checkpoint_and_test(tmp_path: Path, phantoms: Path) -> None:
    base = options("baseline.yaml", phantoms, tmp_path / "fit")
    more = ["--trainer.max_epochs=3", "--trainer.callbacks+=LastEpochsAverage", "--trainer.callbacks.epochs=2"]
    fitted = run(["fit", *base, *more])
    last = f"checkpoints/iteration={fitted.trainer.global_step:08d}.ckpt"
    exported, saved = (state(tmp_path / "fit" / name) for name in ("model/classifier.pt", last))
    torch.testing.assert_close(exported, saved, rtol=0, atol=0)
    kept = torch.load(tmp_path / "fit" / last, weights_only=True)["last_epochs_average"]
    assert kept["averaged"] == [1, 2]
    assert not torch.equal(kept["own"]["network.fc.weight"], saved["fc.weight"])
    loss = float(fitted.trainer.callback_metrics["val/cross_entropy"])
    validation = options("baseline.yaml", phantoms, tmp_path / "validate")
    again = run(["validate", *validation, f"--model.weights={tmp_path / 'fit' / 'model'}"])
    assert float(again.trainer.callback_metrics["val/cross_entropy"]) == pytest.approx(loss, rel=1e-5)
    checkpoint = f"--ckpt_path={tmp_path / 'fit' / last}"
    tested = run(["test", *options("baseline.yaml", phantoms, tmp_path / "test"), checkpoint])
    torch.testing.assert_close(dict(tested.model.classifier.state_dict()), exported, rtol=0, atol=0)


def test_a_linear_probe_from_the_command_line(tmp_path: Path, phantoms: Path) -> None:
    ImageClassifier("test_resnet", num_classes=4).export(tmp_path / "heated")
    probe = [f"--model.weights={tmp_path / 'heated'}", "--model.trainable=head", "--model.reset_head=true"]
    run(["fit", *options("finetune.yaml", phantoms, tmp_path / "run"), "--trainer.max_epochs=1", *probe])
    before, after = state(tmp_path / "heated" / "classifier.pt"), state(tmp_path / "run" / "model" / "classifier.pt")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}


def test_weights_of_other_classes_are_one_message_and_nothing_is_exported(tmp_path: Path, phantoms: Path) -> None:
    ImageClassifier("test_resnet", num_classes=4).export(tmp_path / "heated")
    command = ["fit", *options("finetune.yaml", phantoms, tmp_path / "run"), f"--model.weights={tmp_path / 'heated'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "tamis", *command], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 1
    assert f"tamis: error: {tmp_path / 'heated'} was trained on 4 classes, but the data has 165" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "model").exists()
