"""The table of benchmarks/noise_arms.py: its arithmetic, by hand, and every arm through one real step."""

from __future__ import annotations

import csv
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tamis.cli import run

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
ONE_STEP = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.logger=false",
    "--data.batch_size=4",
]
DIAGNOSED = {
    "val/learned_minus_twin_z": 4.0,
    "val/learned_minus_random_z": 5.25,
    "val/learned_minus_shuffled_z": -0.5,
    "val/gradient_cosine": 0.613,
    "val/alpha_spread": 0.25,
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports the scripts as they import each other."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def _write(folder: Path, name: str, pretrained: dict[str, float], test: dict[str, float], cpu_s: float) -> None:
    for stage, values in (("pretrain", pretrained), ("test", test)):
        (folder / name / stage).mkdir(parents=True)
        with (folder / name / stage / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(values))
            writer.writeheader()
            writer.writerows([dict.fromkeys(values, -9.0), values, dict.fromkeys(values, "")])  # the last value counts
    (folder / "stages" / f"{name}_pretrain.json").write_text(json.dumps({"cpu_s": cpu_s, "commit": "abc"}))


def _scores(accuracy: float) -> dict[str, float]:
    return {f"test/{name}": accuracy for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")}


def test_the_numbers_are_those_worked_out_by_hand(scripts: Any, tmp_path: Path) -> None:
    """None .5 and .7: mean .6, error .1. Cooperative .6 and .7: .65 +- .05; paired +.1 and 0: .05 +- .05."""
    folder = scripts("stages").Folder(tmp_path, {"data": "phantoms", "flag": []})
    for seed, (none, cooperative) in enumerate(((0.5, 0.6), (0.7, 0.7))):
        _write(tmp_path, f"none_seed_{seed}", {"val/accuracy": 0.4}, _scores(none), 10.0)
        _write(
            tmp_path, f"cooperative_seed_{seed}", DIAGNOSED | {"val/accuracy": 0.3}, _scores(cooperative), 20.0 + seed
        )
    console = Console(width=250)
    with console.capture() as capture:
        scripts("noise_arms_report").report(folder, ["none", "cooperative"], 2, console)
    table = (tmp_path / "arms.md").read_text()
    plain, learned = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith(("| none", "| cooperative"))
    )
    assert plain == ["none", "0.400 ± 0.000", *["0.600 ± 0.100"] * 4, "", *[""] * 5, "10 ± 0"]
    expected = ["cooperative", "0.300 ± 0.000", *["0.650 ± 0.050"] * 4, "+0.050 ± 0.050"]
    assert learned == [*expected, "4.0 4.0", "5.2 5.2", "-0.5 -0.5", "0.61 0.61", "0.250 0.250", "20 ± 0"]
    assert "+0.050 ± 0.050" in capture.get()
    assert "commit abc" in table
    assert json.loads((tmp_path / "arms.json").read_text())["arms"]["none"][1]["test"]["test/accuracy"] == 0.7


@pytest.mark.parametrize("problem", ["phantoms", "medmnist"])
def test_every_arm_trains(scripts: Any, tmp_path: Path, phantoms: Path, npz: Path, problem: str) -> None:
    """Its flags are those of a command that the arm runs; only sizes are changed here."""
    arms = scripts("noise_arms")
    settings = arms.PROBLEMS[problem]
    if problem == "phantoms":
        data, further = str(phantoms), ["--data.train_images=30", "--data.val_images=15", "--data.test_images=15"]
    else:
        data, further = str(npz), []
    every = arms.arms_of(settings)
    names = every if problem == "phantoms" else ("none_fast", "random_fine", "official")  # what has numbers of its own
    for name in names:
        arm = every[name]
        pretrain = arms.chain(settings, data, str(tmp_path / name), arm, 0, [*ONE_STEP, *further])[0]
        model = run(pretrain.arguments[1:]).model
        assert getattr(model, "objective", "none") == {
            "random_fine": "random",
            "official_divided": "official",
            "pathwise_adversarial": "pathwise",
            "random": "random",
            "official": "official",
            "pathwise": "pathwise",
            "cooperative": "reinforce",
            "adversarial": "reinforce",
        }.get(name, "none")
        assert (tmp_path / f"{name}_seed_0" / "pretrain" / "model" / "classifier.pt").is_file()


def test_plain_training_at_the_published_objectives_rate(scripts: Any) -> None:
    arms = scripts("noise_arms")
    phantoms = arms.PROBLEMS["phantoms"]
    assert phantoms.factor == pytest.approx(math.log(24 * 24))
    assert arms.arms_of(phantoms)["none_fast"].flags == ("--model.optimizer.init_args.lr=0.6356",)


def test_a_missing_set_is_named() -> None:
    command = [sys.executable, str(SCRIPTS / "noise_arms.py"), "--npz", "nowhere.npz"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "--npz nowhere.npz does not exist" in ended.stderr


def test_the_report_reads_what_the_stages_leave(
    scripts: Any, tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages' own commands, in this process; their cost is made up."""
    monkeypatch.chdir(tmp_path)
    folder = scripts("stages").Folder(tmp_path, {"data": npz.name, "flag": []})
    arms = scripts("noise_arms")
    problem = arms.PROBLEMS["medmnist"]
    flags = [flag for flag in ONE_STEP if "logger" not in flag]
    for stage in arms.chain(problem, str(npz), "cooperative", arms.arms_of(problem)["cooperative"], 0, flags):
        run(stage.arguments[1:])
        (tmp_path / "stages" / f"{stage.name}.json").write_text(json.dumps({"cpu_s": 1.0, "commit": "abc"}))
    scripts("noise_arms_report").report(folder, ["cooperative"], 1, Console(width=250))
    assert "| cooperative |" in (tmp_path / "arms.md").read_text()
    result = json.loads((tmp_path / "arms.json").read_text())["arms"]["cooperative"][0]
    assert {"val/accuracy", *DIAGNOSED} <= set(result["pretrained"])
    assert (tmp_path / "cooperative_seed_0" / "pretrain" / "masks").is_dir()
