"""The result file and the table of completions: of real runs, against numbers by hand, and repeated byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tamis.callbacks import CompletionTable
from tamis.callbacks.completion_table import show
from tamis.callbacks.dataset_facts import dataset_facts, same_text, tasks_digest
from tamis.callbacks.results import table_row, weights_digest
from tamis.datamodules import CodeTasks
from tamis.functional import bootstrap_interval
from tamis.modules import CodePolicy, SupervisedFineTuning
from tamis.modules.code_evaluation import each_once, measure

NAMES = ("results.json", "completions.jsonl")
# Whatever follows the prompt is a comment, until its line ends: some samples pass and some do not.
TASK = {"prompt": "def f():\n    return 1\n    #", "entry_point": "f", "test": "def check(f):\n    assert f() == 1\n"}


def _file(folder: Path, name: str = "tasks.jsonl", count: int = 5) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"task_id": f"t/{index}", **TASK}) + "\n" for index in range(count)))
    return path


def _run(model: str, tasks: CodeTasks, folder: Path, **options: Any) -> dict[str, float]:
    settings = {"eval_samples": 4, "eval_temperature": 1.0, "pass_at": (1, 2), "max_new_tokens": 6, **options}
    module = CodePolicy(model, critic="none", reference=False, **settings)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[CompletionTable()],
        logger=False,
        default_root_dir=str(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(module, tasks, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    result: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return result, [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_both_files_say_what_happened(tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _file(tmp_path)
    logged = _run(tiny_model, CodeTasks(test=f"{file}[0:4]", eval_batch_size=3), tmp_path / "run")
    result, rows = _read(tmp_path / "run")
    assert [(row["task_id"], row["sample"]) for row in rows] == [(f"t/{i}", n) for i in range(4) for n in range(4)]
    assert all(row["passed"] == (row["status"] == "passed") for row in rows)
    assert all(row["calls"] > 0 for row in rows if row["passed"])
    passed = [sum(row["passed"] for row in rows[start : start + 4]) for start in range(0, 16, 4)]
    assert 0 < sum(passed) < 16
    by_hand = [count / 4 for count in passed]
    first = result["metrics"]["pass@1"]
    assert (first["mode"], first["problems"], first["value"]) == ("sampled", 4, pytest.approx(sum(by_hand) / 4))
    assert first["interval"] == list(bootstrap_interval(by_hand))
    assert result["counts"]["outcomes"]["passed"] == sum(passed)
    assert sum(result["counts"]["outcomes"].values()) == result["counts"]["samples"] == 16
    assert logged["test/pass@1"] == pytest.approx(first["value"])
    assert logged["test/pass@2"] == pytest.approx(result["metrics"]["pass@2"]["value"])
    assert [logged["test/pass@1_low"], logged["test/pass@1_high"]] == pytest.approx(first["interval"])
    printed = capsys.readouterr().out
    assert f"{first['value']:.3f}" in printed
    assert f"{sum(passed)} passed" in printed


def test_the_file_names_what_could_move_the_number(tiny_model: str, tmp_path: Path) -> None:
    file = _file(tmp_path)
    _run(tiny_model, CodeTasks(test=str(file)), tmp_path / "run", eval_top_p=0.9, seed=3)
    text = (tmp_path / "run" / "results.json").read_text()
    result = json.loads(text)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert result["dataset"]["files"] == [{"name": "tasks.jsonl", "sha256": digest}]
    assert (result["dataset"]["rows"], result["dataset"]["benchmarks"]) == (5, ["humaneval"])
    assert result["prompt"]["example"] == {"task_id": "t/0", "text": TASK["prompt"]}
    sampling = result["sampling"]
    assert [sampling[key] for key in ("temperature", "top_p", "samples_per_problem", "seed", "max_new_tokens")] == [
        1.0, 0.9, 4, 3, 6,
    ]  # fmt: skip
    assert "\ndef" in sampling["stop_strings"][0]
    assert result["sandbox"]["isolation"] in ("namespace", "seccomp")
    assert result["sandbox"]["limits"]["cpu_s"] == 3.0
    assert result["model"]["dtype"] == ["torch.float32"]
    assert result["numerics"]["device"] == "cpu"
    assert result["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert str(tmp_path) not in text


def test_the_same_seed_writes_the_same_bytes(tiny_model: str, tmp_path: Path) -> None:
    file = _file(tmp_path)
    batches = {"first": 2, "second": 2, "other": 2}
    for name, size in batches.items():
        seed = 1 if name == "other" else 0
        _run(tiny_model, CodeTasks(test=str(file), eval_batch_size=size), tmp_path / name, seed=seed)
    first, second, other = ([(tmp_path / name / file).read_bytes() for file in NAMES] for name in batches)
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_batch_changes_no_completion(tiny_model: str, tmp_path: Path) -> None:
    file = _file(tmp_path)
    for size in (1, 5):
        _run(tiny_model, CodeTasks(test=str(file), eval_batch_size=size), tmp_path / str(size))
    assert (tmp_path / "1" / NAMES[1]).read_bytes() == (tmp_path / "5" / NAMES[1]).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_result_is_overwritten(name: str, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} exists; choose another folder"):
        _run(tiny_model, CodeTasks(test=str(_file(tmp_path))), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


def test_a_module_without_completions_is_refused(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="needs a CodePolicy, which samples programs; got SupervisedFineTuning"):
        CompletionTable().setup(Trainer(accelerator="cpu", logger=False), SupervisedFineTuning(tiny_model), "test")
    with pytest.raises(ValueError, match="failures must be 0"):
        CompletionTable(failures=-1)


def _row(**changes: Any) -> dict[str, Any]:
    row = {"task_id": "t", "sample": 0, "prompt": "p", "completion": "c", "status": "error", "detail": "", "calls": 3}
    return {**row, "passed": False, "extracted": True, "truncated": False, "reward": None, **changes}


def test_what_differs_from_run_to_run_is_left_out() -> None:
    detail = "TypeError: <f at 0x7f12ab34cd56> and <g at 0x55d0c0ffee00>, 0xff"
    line = table_row(_row(detail=detail))
    assert line["detail"] == "TypeError: <f at 0x...> and <g at 0x...>, 0xff"
    assert line["calls"] == 3
    assert table_row(_row(status="timeout"))["calls"] is None  # how far it came is the machine's doing
    assert set(line) == {
        "task_id", "sample", "completion", "status", "detail", "passed", "extracted", "truncated", "calls",
    }  # fmt: skip


def test_the_summary_names_failures_and_outcomes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = each_once(
        [
            [
                _row(task_id="a/2", status="passed", passed=True),
                _row(task_id="a/10", status="error", detail="[bold]NameError[/bold]: x"),
                _row(task_id="a/11", status="error", extracted=False),
                _row(task_id="a/12", status="internal"),
            ]
        ]
    )
    show(measure(rows, [1]), "greedy", rows, failures=2)
    printed = capsys.readouterr().out
    assert "greedy, 4 samples of 4 problems" in printed
    assert "1 passed, 1 error, 1 internal, 1 extraction_failed, 0 truncated" in printed
    assert "a/10 sample 0: error: [bold]NameError[/bold]: x" in printed
    assert "a/11 sample 0: extraction_failed" in printed
    assert "a/12" not in printed  # two were asked for
    assert "0.333" in printed


def test_weights_are_known_by_their_values(tiny_model: str) -> None:
    first, second = (CodePolicy(tiny_model, critic="none", reference=False).policy for _ in range(2))
    assert weights_digest(first) == weights_digest(second)
    with torch.no_grad():
        next(second.parameters()).view(-1)[-1] += 1e-3
    assert weights_digest(first) != weights_digest(second)


def test_training_tasks_that_are_test_tasks_are_named(tmp_path: Path) -> None:
    """By hand: t/1 differs from a training prompt in white space and case only, t/0 in a word."""
    rows = [{"task_id": f"t/{index}", **TASK, "prompt": f"def f():\n    # task {index}\n"} for index in range(2)]
    train = [{**rows[0], "prompt": "def f():\n    # job 0\n"}, {**rows[1], "prompt": "def f():\n    #  Task 1\n\n"}]
    for name, content in (("test", rows), ("train", train)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    tasks = CodeTasks(train=str(tmp_path / "train.jsonl"), test=str(tmp_path / "test.jsonl"))
    tasks.setup("test")
    facts = dataset_facts(tasks, [{**record, "sample": 0} for record in tasks.records["test"]])
    assert facts["training_overlap"] == {"train": "train.jsonl", "train_prompts": 2, "shared": 1, "task_ids": ["t/1"]}
    assert facts["tasks_sha256"] == tasks_digest(rows)  # where they were read from says nothing
    (tmp_path / "train.jsonl").unlink()  # not worth the result of a test that has been run
    with pytest.warns(UserWarning, match="trained on is not known, because .*train.jsonl cannot be read"):
        facts = dataset_facts(tasks, [{**record, "sample": 0} for record in tasks.records["test"]])
    assert facts["training_overlap"] is None
    assert same_text("A b\n") == same_text("ab") != same_text("ac")
    assert dataset_facts(None, [{**rows[0], "task": rows[0]}])["files"] == []
