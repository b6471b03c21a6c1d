"""Every config of the noise mask runs for a step, on tiny data in the formats of the real sets."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml

from tamis.cli import run
from tamis.modules import ImageClassifier

ONE_STEP = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--data.batch_size=4",
    "--data.num_workers=0",
]


def fit(config: str, run_dir: Path, *options: str) -> None:
    path = files("tamis.configs").joinpath(*config.split("/"))
    run(["fit", f"--config={path}", f"--run_dir={run_dir}", *ONE_STEP, *options])
    assert (run_dir / "model" / "classifier.pt").is_file()


def weights_for(config: str, folder: Path, backbone: str, classes: int) -> list[str]:
    if "finetune" not in config:
        return []
    ImageClassifier(backbone, num_classes=classes).export(folder / "heated")
    return [f"--model.weights={folder / 'heated'}"]


@pytest.mark.parametrize("stage", ["baseline", "noise_mask", "random_mask", "monai_noise", "finetune"])
def test_quickstart(stage: str, tmp_path: Path) -> None:
    config = f"quickstart/phantoms_{stage}.yaml"
    small = ["--data.train_images=30", "--data.val_images=15", "--data.test_images=15"]
    weights = weights_for(config, tmp_path, "test_resnet", 15)
    fit(config, tmp_path / "run", f"--data.root={tmp_path / 'phantoms'}", *small, *weights)


@pytest.mark.parametrize("stage", ["baseline", "noise_mask", "random_mask", "finetune"])
def test_medmnist(stage: str, tmp_path: Path, npz: Path) -> None:
    config = f"medmnist/{stage}.yaml"
    fit(config, tmp_path / "run", f"--data.path={npz}", *weights_for(config, tmp_path, "test_resnet", 3))


@pytest.mark.parametrize("kind", ["multi", "ordinal"])
def test_other_kinds_of_labels(kind: str, tmp_path: Path, npz: Path) -> None:
    arrays = dict(np.load(npz))
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = np.arange(48).reshape(12, 4) % 3 % 2 if kind == "multi" else np.arange(12) % 4
    np.savez(tmp_path / "set.npz", **arrays)
    options = [f"--data.path={tmp_path / 'set.npz'}", f"--data.ordinal={'true' if kind == 'ordinal' else 'null'}"]
    fit("medmnist/baseline.yaml", tmp_path / "run", *options)
    weights = [f"--model.weights={tmp_path / 'run' / 'model'}", f"--run_dir={tmp_path / 'tested'}"]
    config = files("tamis.configs").joinpath("medmnist", "baseline.yaml")
    cli = run(["test", f"--config={config}", *options, *weights, "--trainer.accelerator=cpu"])
    assert cli.datamodule.label_kind == kind
    own = {"multi": "test/mean_average_precision", "ordinal": "test/quadratic_kappa"}
    assert own[kind] in cli.trainer.callback_metrics
    assert (tmp_path / "tested" / "test" / "per_class.csv").is_file()


@pytest.mark.parametrize("stage", ["merged_baseline", "merged_noise_mask"])
def test_medmnist_merged(stage: str, tmp_path: Path, npz: Path) -> None:
    shutil.copy(npz, tmp_path / "other.npz")
    fit(f"medmnist/{stage}.yaml", tmp_path / "run", f"--data.path=[{npz},{tmp_path / 'other.npz'}]")


@pytest.mark.parametrize("stage", ["baseline", "noise_mask", "finetune"])
def test_radimagenet(stage: str, tmp_path: Path, phantoms: Path) -> None:
    config = f"radimagenet/{stage}.yaml"
    weights = weights_for(config, tmp_path, "resnet18", 165)
    fit(config, tmp_path / "run", f"--data.root={phantoms}", "--data.image_size=64", *weights)


def test_policy_gradient_instead_of_the_published_objective_is_a_matter_of_flags(
    tmp_path: Path, phantoms: Path
) -> None:
    options = ["--update=ReinforceUpdate", "--model.objective=reinforce", "--model.masks_per_image=2"]
    fit("radimagenet/noise_mask.yaml", tmp_path, f"--data.root={phantoms}", "--data.image_size=64", *options)


@pytest.mark.parametrize("stage", ["baseline", "finetune"])
def test_the_test_of_a_classifier_leaves_its_report(stage: str, tmp_path: Path, phantoms: Path, npz: Path) -> None:
    sets = {"radimagenet": (phantoms, "root", "resnet18", 165), "medmnist": (npz, "path", "test_resnet", 3)}
    for name, (path, option, backbone, classes) in sets.items():
        ImageClassifier(backbone, num_classes=classes).export(tmp_path / name)
        config = files("tamis.configs").joinpath(name, f"{stage}.yaml")
        flags = [
            f"--data.{option}={path}",
            f"--model.weights={tmp_path / name}",
            f"--run_dir={tmp_path / name / 'run'}",
        ]
        flags += ["--data.batch_size=8", "--data.image_size=32", "--data.num_workers=0", "--trainer.accelerator=cpu"]
        run(["test", f"--config={config}", *flags, "--trainer.enable_progress_bar=false"])
        report = {file.name for file in (tmp_path / name / "run" / "test").iterdir()}
        assert report == {"per_class.csv", "groups.csv", "confusion.png"}
    assert "modality,US," in (tmp_path / "radimagenet" / "run" / "test" / "groups.csv").read_text()


def test_the_noise_control_differs_from_the_baseline_in_its_noise_alone() -> None:
    folder = files("tamis.configs") / "quickstart"
    names = ("phantoms_baseline.yaml", "phantoms_monai_noise.yaml")
    baseline, control = (yaml.safe_load((folder / name).read_text()) for name in names)
    assert control["data"]["init_args"].pop("noise") == {"kind": "gaussian"}
    assert control == baseline
