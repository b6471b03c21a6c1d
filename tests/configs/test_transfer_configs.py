"""The configs of transfer: on a set that pretraining did not see, with its weights, and tested with the report."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from tamis.cli import run
from tamis.datamodules import MedMNIST, RadImageNet
from tamis.modules import ImageClassifier

SMALL = ["--data.batch_size=4", "--data.num_workers=0", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.enable_progress_bar=false", "--data.image_size=32"]
EPOCH = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.limit_train_batches=2"]


def config(name: str) -> str:
    return f"--config={files('tamis.configs').joinpath('transfer', f'{name}.yaml')}"


def weights(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(file / "classifier.pt", weights_only=True)["state_dict"]
    return found


@pytest.mark.parametrize("name", ["linear_probe", "finetune", "few_shot"])
def test_a_set_that_pretraining_did_not_see(name: str, tmp_path: Path, npz: Path) -> None:
    ImageClassifier("test_resnet", num_classes=7).export(tmp_path / "heated")  # of other classes
    options = [config(name), f"--data.path={npz}", *SMALL]
    own = [f"--model.weights={tmp_path / 'heated'}", f"--run_dir={tmp_path / 'run'}"]
    shots = ["--data.shots=3", "--data.shots_seed=2"] if name == "few_shot" else []
    cli = run(["fit", *options, *EPOCH, *own, *shots])
    assert isinstance(cli.datamodule, MedMNIST)
    assert cli.datamodule.split("train").images == (9 if name == "few_shot" else 12)
    before, after = weights(tmp_path / "heated"), weights(tmp_path / "run" / "model")
    changed = {
        key for key in after if after[key].shape != before[key].shape or not torch.equal(after[key], before[key])
    }
    assert after["fc.weight"].shape[0] == 3
    assert (changed == {"fc.weight", "fc.bias"}) == (name != "finetune")
    tested = [f"--model.weights={tmp_path / 'run' / 'model'}", "--model.reset_head=false"]
    run(["test", *options, *shots, *tested, f"--run_dir={tmp_path / 'test'}"])
    assert (tmp_path / "test" / "test" / "per_class.csv").is_file()


def test_an_anatomy_that_pretraining_did_not_see(tmp_path: Path, phantoms: Path) -> None:
    unseen = "[MR__brain__*]"  # phantoms have no knee
    options = [f"--data.root={phantoms}", *SMALL, *EPOCH]
    one = [f"--run_dir={tmp_path / 'one'}", f"--data.without_classes={unseen}", "--model.grid=8"]
    two = [f"--run_dir={tmp_path / 'two'}", f"--data.only_classes={unseen}", f"--model.weights={tmp_path}/one/model"]
    pretraining = run(["fit", config("unseen_anatomy_pretraining"), *options, *one])
    probe = run(["fit", config("unseen_anatomy"), *options, *two])
    before, after = pretraining.datamodule, probe.datamodule
    assert isinstance(before, RadImageNet)
    assert isinstance(after, RadImageNet)
    assert (before.num_classes, after.num_classes) == (155, 10)  # MR of the brain has 10 of the 165
    assert not set(before.class_names) & set(after.class_names)
    assert (tmp_path / "two" / "model" / "classifier.pt").is_file()
