"""benchmarks/data.py and audit_speed.py run; the table of transfer.py, by hand, and what its commands ask for."""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tamis.cli import run

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
Load = Callable[[str], ModuleType]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports the scripts as they import each other."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(script.__file__), *arguments])
    threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)


def test_loader(
    scripts: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(scripts("data"), monkeypatch, "--quick", f"--root={tmp_path / 'images'}")
    told = capsys.readouterr().out
    assert "the same numbers from both, augmentation included: yes" in told
    assert told.count("at least 10") == 2


def test_memory_is_that_of_a_process(scripts: Load) -> None:
    resident, own = scripts("data").megabytes(os.getpid())
    assert 50 < own <= resident
    assert str(scripts("data").megabytes(2**22 + 1)) == "(nan, nan)"


def test_audit(scripts: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(scripts("audit_speed"), monkeypatch, "--images=40", "--size=32", "--turns=1")
    assert "0.80" in capsys.readouterr().out


def test_transfer_by_hand(scripts: Load, tmp_path: Path) -> None:
    """Random .5 and .7: .6 +- .1; baseline .6 and .9: .75 +- .15; by episode +.1 and +.2: .15 +- .05."""
    folder = scripts("stages").Folder(tmp_path, {})
    for arm, values in (("random", (0.5, 0.7)), ("baseline", (0.6, 0.9))):
        for protocol in ("shots_5", "linear_probe", "finetune"):
            for number, value in enumerate(values):
                place = tmp_path / "organs" / protocol / arm / str(number) / "test"
                place.mkdir(parents=True)
                with (place / "metrics.csv").open("w", newline="") as file:
                    csv.writer(file).writerows([["test/balanced_accuracy", "test/macro_auc"], [value, value]])
    options = argparse.Namespace(target=[Path("organs.npz")], arms=["random", "baseline"], shots=[5], episodes=2)
    lines = scripts("transfer").lines_of(folder, options)
    assert [line[:3] for line in lines[:2]] == [
        ("organs", "shots_5", "balanced accuracy"),
        ("organs", "shots_5", "AUC"),
    ]
    assert len(lines) == 6
    assert [cell.replace(" ", "") for cell in lines[0][3:]] == ["0.600±0.100", "0.750±0.150", "+0.150±0.050"]


def test_an_episode_of_transfer_is_a_real_one(
    scripts: Load, tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.image_size=32"]
    fit, test = scripts("transfer").episode("random", "shots_3", npz, 7, small)
    for stage in (fit, test):
        assert stage.arguments[0] == "tamis"
        cli = run(list(stage.arguments[1:]))
    assert cli.datamodule.shots == 3
    assert cli.datamodule.shots_seed == 7
    assert (tmp_path / "set" / "shots_3" / "random" / "7" / "test" / "metrics.csv").is_file()


def test_a_target_must_not_be_pretrained_on(
    scripts: Load, npz: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(scripts("transfer"), monkeypatch, f"--pretrain={npz}", f"--target={npz}")
    assert "set.npz: a target must not be pretrained on" in capsys.readouterr().err
