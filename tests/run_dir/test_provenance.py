"""run.json: versions, commit, command without secrets, seed and data; resumed runs add to it."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import tamis
from tamis.run_dir.provenance import source_commit, write_provenance
from tamis.run_dir.redaction import redacted

SECRET = "c0rrectHorse-battery"


def test_what_a_run_was_started_with(tmp_path: Path) -> None:
    write_provenance(tmp_path, ["tamis", "fit", "--seed_everything=3"], 3, {"train": "ab12"}, processes=2)
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["command"] == ["tamis", "fit", "--seed_everything=3"]
    assert [found[key] for key in ("seed", "processes", "threads")] == [3, 2, torch.get_num_threads()]
    assert found["datasets"] == {"train": "ab12"}
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"]["tamis"] == tamis.__version__
    assert None not in [found["versions"][name] for name in ("lightning", "transformers", "timm", "monai")]
    assert abs((datetime.fromisoformat(found["started"]) - datetime.now().astimezone()).total_seconds()) < 60
    assert found["resumed"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_resumed_run_adds_to_it(tmp_path: Path) -> None:
    write_provenance(tmp_path, ["tamis", "fit"], 0, {})
    first = json.loads((tmp_path / "run.json").read_text())
    for number in (1, 2):
        write_provenance(tmp_path, ["tamis", "fit", "--resume=auto"], 0, {}, number, f"checkpoint-{number}")
    found = json.loads((tmp_path / "run.json").read_text())
    assert [start["checkpoint"] for start in found["resumed"]] == ["checkpoint-1", "checkpoint-2"]
    assert [start["processes"] for start in found["resumed"]] == [1, 2]
    assert found["resumed"][0].keys() == (first.keys() - {"resumed"}) | {"checkpoint"}
    assert {**found, "resumed": []} == first


@pytest.mark.parametrize("content", ["", "[]", '{"resumed": 1}', "{"])
def test_another_programs_file_is_refused_and_left_alone(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is no file that tamis has written"):
        write_provenance(tmp_path, ["tamis"], 0, {})
    assert (tmp_path / "run.json").read_text() == content


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    write_provenance(tmp_path, ["tamis"], 0, {})
    assert not list(tmp_path.iterdir())


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_of_the_checkout_that_holds_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "checkout" / "src" / "tamis"
    installed = tmp_path / "checkout" / ".venv" / "site-packages" / "tamis"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "module.py").write_text("1\n")
    assert source_commit(package) is None  # no repository
    git(tmp_path / "checkout", "init", "--quiet")
    assert source_commit(package) is None  # no commit
    git(tmp_path / "checkout", "add", "src")
    git(tmp_path / "checkout", "commit", "--quiet", "-m", "one")
    commit = git(tmp_path / "checkout", "rev-parse", "HEAD")
    assert source_commit(package) == {"commit": commit, "dirty": True}  # .venv is not ignored
    shutil.move(tmp_path / "checkout" / ".venv", tmp_path / "checkout" / "src" / "tamis" / "venv")
    (tmp_path / "checkout" / ".git" / "info" / "exclude").write_text("venv\n")
    assert source_commit(package) == {"commit": commit, "dirty": False}
    (package / "module.py").write_text("2\n")
    assert source_commit(package) == {"commit": commit, "dirty": True}
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert source_commit(package) == {"commit": commit, "dirty": True}
    assert (
        source_commit(package / "venv" / "site-packages" / "tamis") is None
    )  # installed, in a folder of this checkout
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit(package) is None  # no git


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("--trainer.logger.api_key=%", "--trainer.logger.api_key=[redacted]"),
        ("--model.hub-token=%", "--model.hub-token=[redacted]"),
        ("--trainer.logger+=%", "--trainer.logger+=%"),  # nothing tells that this is one
        ("--PASSWORD=% with spaces\nand lines", "--PASSWORD=[redacted]"),
        ("--model.token.value=%", "--model.token.value=[redacted]"),
        ("--model.accessToken=%", "--model.accessToken=[redacted]"),
        ('{"class_path": "W", "init_args": {"api_key": "%", "n": 3}}', None),
        ("{class_path: W, api_key: %, n: 3}", "{class_path: W, api_key: [redacted], n: 3}"),
        ("{api_key: hf_abcDEF12345678, n: 3}", "{api_key: [redacted], n: 3}"),  # told by name and form
        ("https://me:%@host/path?n=1", "https://[redacted]@host/path?n=1"),
        ("https://%@host/path", "https://[redacted]@host/path"),
        ("https://host/path?access_token=%&n=1", "https://host/path?access_token=[redacted]&n=1"),
        ("Authorization: Bearer %", "Authorization: Bearer [redacted]"),
        ("--model.name=hf_abcDEF123456789", "--model.name=[redacted]"),
        ("--x=a,sk-proj-abcDEF12345,b", "--x=a,[redacted],b"),
        ("ghp_abcDEF12345678", "[redacted]"),
        ("github_pat_abcDEF_12345678", "[redacted]"),
        ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[redacted]"),
    ],
)
def test_secrets_of_the_command_line(argument: str, shown: str | None) -> None:
    shown = shown or '{"class_path": "W", "init_args": {"api_key": "[redacted]", "n": 3}}'
    (found,) = redacted([argument.replace("%", SECRET)])
    assert found == shown.replace("%", SECRET)


@pytest.mark.parametrize(
    ("before", "hidden"),
    [("--api_key", True), ("--model.token", True), ("Authorization: Bearer", True), ("--model.max_new_tokens", False)],
)
def test_a_value_behind_its_option(before: str, hidden: bool) -> None:
    value = "[redacted]" if hidden else SECRET
    assert redacted(["fit", before, SECRET, "--x", SECRET]) == ["fit", before, value, "--x", SECRET]
    assert redacted([before, "--x", "1"]) == [before, "--x", "1"]


def test_a_command_without_secrets_stays_as_it_is() -> None:
    command = [
        "tamis",
        "fit",
        "-c",
        "configs/code/pf_ppo.yaml",
        "--model.max_new_tokens=64",
        "--data.train=a.jsonl[:64]",
    ]
    command += [
        "--model.max_prompt_tokens",
        "128",
        "--model.tokenizer=models/sk-learn",
        "--trainer.callbacks+=ModelExport",
    ]
    command += [
        "--model={'class_path': 'CodePolicy', 'init_args': {'num_samples': 3}}",
        "--data.test=hub:org/set@main:x",
    ]
    command += ["--keys=3", "--filter.keep=2", "https://host/a?b=c", "task-id-1", "--run_dir=runs/basic", "value"]
    assert redacted(command) == command


def test_no_secret_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", SECRET)
    write_provenance(tmp_path, ["tamis", "fit", "--trainer.logger.api_key", SECRET, f"--x.token={SECRET}"], 0, {})
    assert SECRET not in (tmp_path / "run.json").read_text()
