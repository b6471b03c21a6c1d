"""What a user can give wrong: one error that says what and where, before training, and nothing is lost by it."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tamis.cli import main, run
from tamis.modules import ImageClassifier

from .table.case import COMMANDS, BadInput
from .table.checkpoints import CHECKPOINTS
from .table.configs import CONFIGS
from .table.images import FOLDERS, NPZ
from .table.models import MODELS
from .table.texts import TEXTS

TABLE = [*CONFIGS, *TEXTS, *NPZ, *FOLDERS, *MODELS, *CHECKPOINTS]
Seen = dict[str, str]


@pytest.fixture(scope="module")
def good(
    quickstart: Path,
    reward_folder: Path,
    pairs: Path,
    phantoms: Path,
    npz: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Good things under short names, and checkpoints of two short runs."""
    folder = tmp_path_factory.mktemp("good")
    for name, place in {
        "model": quickstart / "untrained",
        "reward": reward_folder,
        "demos.jsonl": quickstart / "tasks" / "demonstrations.jsonl",
        "tasks.jsonl": quickstart / "tasks" / "train.jsonl",
        "pairs.jsonl": pairs,
        "phantoms": phantoms,
        "set.npz": npz,
    }.items():
        (folder / name).symlink_to(place)
    ImageClassifier("test_resnet", num_classes=3).export(folder / "classifier")
    for command in ("sft", "npz"):
        cli = run([*_words(command, folder, folder), f"--run_dir={folder / 'runs' / command}", "--trainer.max_steps=1"])
        cli.trainer.save_checkpoint(folder / f"{command}.ckpt")
    return folder


@pytest.fixture
def steps() -> Iterator[list[object]]:
    """One entry an optimiser's step."""
    taken: list[object] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: taken.append(optimizer))
    yield taken
    hook.remove()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.wrong) for case in TABLE])
def test_bad_input(
    case: BadInput,
    good: Path,
    steps: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here, work = tmp_path / "here", tmp_path / "work"
    here.mkdir()
    (work / "runs" / "before").mkdir(parents=True)
    (work / "runs" / "before" / "metrics.csv").write_text("weeks of work\n")
    monkeypatch.chdir(work)
    case.make(here, good)
    given, earlier = contents(here), contents(work)
    words = _words(case.command, here, good)
    own_run_dir = any(word.startswith("--run_dir") for word in words) or len(words) < 2
    words += [] if own_run_dir else ["--run_dir=runs/new"]
    messages = [_said(words, monkeypatch, capsys) for _ in range(1 + case.again)]
    for part in case.says:
        assert part in messages[0]
    assert len(messages[0].splitlines()) < 12
    assert "Traceback" not in messages[0]
    assert messages[1:] == messages[:1] * case.again  # the run directory of the failed run is in nobody's way
    assert not steps
    assert contents(here) == given
    assert {name: digest for name, digest in contents(work).items() if "runs/new" not in name} == earlier


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.wrong for case in TABLE]
    assert len(set(names)) == len(names) >= 80
    assert all(case.says for case in TABLE)


def test_the_good_things_are_still_good(good: Path, steps: list[object], tmp_path: Path) -> None:
    """Behind the table: nothing that it was given as good has changed, and each good command trains."""
    assert not list(good.rglob("code-was-run"))
    for name in ("npz", "sft"):
        run([*_words(name, good, good), f"--run_dir={tmp_path / name}", "--trainer.max_steps=1"])
        assert steps
        steps.clear()


def contents(folder: Path) -> Seen:
    """A digest of every file and a mark for every folder, but for caches."""
    paths = (path for path in sorted(folder.rglob("*")) if ".tamis" not in path.parts)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in paths
    }


def _words(command: str, here: Path, good: Path) -> list[str]:
    """The arguments: those of the good command, then the case's own, which win."""
    base, _, more = command.partition(" ")
    return [word.format(here=here, good=good) for word in shlex.split(f"{COMMANDS[base]} {more}")]


def _said(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a user reads when the command ends: its error, which must be one of the command's own."""
    monkeypatch.setattr(sys, "argv", ["tamis", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    if isinstance(stop.value.code, str):  # what Python prints itself
        return stop.value.code
    assert stop.value.code in (1, 2)
    said = capsys.readouterr().err
    start = max(said.find("tamis: error: "), said.find("error: "))
    assert start >= 0
    return said[said.find("error: ") :]
