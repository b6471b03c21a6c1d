"""Preference pairs, against groups worked out by hand and a real prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from tamis.callbacks import PreferenceWriter
from tamis.modules import CodePolicy

SAMPLE_KEYS = ["completion", "passed", "prompt", "reward", "status", "task_id", "truncated"]


def _group(passed: list[str], failed: list[str]) -> list[dict[str, Any]]:
    """Samples of one task."""
    samples = [(text, True) for text in passed] + [(text, False) for text in failed]
    return [
        {"task_id": "t", "prompt": "p", "completion": text, "passed": good, "status": "passed" if good else "failed"}
        for text, good in samples
    ]


def _texts(pairs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(pair["chosen"], pair["rejected"]) for pair in pairs]


def test_all_pairs_of_distinct_samples_in_their_order() -> None:
    pairs = PreferenceWriter().choose(_group(["a", "b", "a"], ["x", "y", "x"]))
    assert _texts(pairs) == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    assert all(pair["task_id"] == "t" and pair["prompt"] == "p" for pair in pairs)
    assert all(sorted(pair) == ["chosen", "prompt", "rejected", "task_id"] for pair in pairs)


def test_the_limit_takes_the_first() -> None:
    group = _group(["a", "b", "c"], ["x", "y", "z"])
    assert _texts(PreferenceWriter(max_pairs_per_prompt=2).choose(group)) == [("a", "x"), ("a", "y")]
    assert len(PreferenceWriter().choose(group)) == 6


def test_the_pair_that_differs_most() -> None:
    """Similarities (2 * common / all characters): abcd-abce 6/8, abcd-wxyz 0; abzz-abce 4/8, abzz-wxyz 2/8."""
    writer = PreferenceWriter(pairs="max_edit_distance")
    assert _texts(writer.choose(_group(["abzz", "abcd"], ["abce", "wxyz"]))) == [("abcd", "wxyz")]


def test_long_programs_are_compared_whole() -> None:
    """From 200 characters on difflib would leave frequent ones out, and call near copies the most different pair."""
    program, near, far = "ab" * 150, "c" + "ab" * 150, "ab" * 20 + "de" * 40
    writer = PreferenceWriter(pairs="max_edit_distance")
    assert _texts(writer.choose(_group([program], [near, far]))) == [(program, far)]


def test_what_the_sandbox_lost_is_not_rejected() -> None:
    group = _group(["a"], ["x", "y"])
    group[1]["status"] = "internal"
    assert _texts(PreferenceWriter().choose(group)) == [("a", "y")]
    assert PreferenceWriter().choose(group[:2]) == []


@pytest.mark.parametrize("pairs", ["all", "max_edit_distance"])
def test_one_sided_groups_give_nothing(pairs: Any) -> None:
    writer = PreferenceWriter(pairs=pairs)
    assert writer.choose(_group(["a", "b"], [])) == []
    assert writer.choose(_group([], ["a", "b"])) == []


def _trainer(folder: Path, writer: PreferenceWriter) -> Trainer:
    return Trainer(
        accelerator="cpu",
        callbacks=[writer],
        logger=False,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _loader() -> DataLoader[Any]:
    """Whatever follows the prompt is a comment or a string of lines, so that some samples pass and some do not."""
    test = "def check(f):\n    assert f() == 1\n"
    task = {"prompt": "def f():\n    return 1\n#", "entry_point": "f", "test": test}
    records = [{"task_id": f"t/{index}", "prompt": task["prompt"], "task": task} for index in range(4)]
    return DataLoader(records, batch_size=2, collate_fn=list)  # type: ignore[arg-type]


@pytest.mark.parametrize("own_folder", [False, True])
def test_a_real_prediction_writes_both_files(own_folder: bool, tiny_model: str, tmp_path: Path) -> None:
    folder = tmp_path / "pairs" if own_folder else tmp_path
    writer = PreferenceWriter(folder=str(folder)) if own_folder else PreferenceWriter()
    module = CodePolicy(tiny_model, num_samples=6, max_new_tokens=4, critic="none", reference=False)
    _trainer(tmp_path, writer).predict(module, _loader())
    samples, pairs = (
        [json.loads(line) for line in (folder / name).open()] for name in ("samples.jsonl", "pairs.jsonl")
    )
    assert [sample["task_id"] for sample in samples] == [f"t/{index // 6}" for index in range(24)]
    assert all(sorted(sample) == SAMPLE_KEYS for sample in samples)
    assert all(sample["passed"] == (sample["status"] == "passed") for sample in samples)
    assert {sample["passed"] for sample in samples} == {True, False}
    assert {sample["reward"] for sample in samples} == {None}
    assert pairs
    verdicts = {(sample["task_id"], sample["completion"]): sample["passed"] for sample in samples}
    for pair in pairs:
        assert verdicts[pair["task_id"], pair["chosen"]]
        assert not verdicts[pair["task_id"], pair["rejected"]]
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("name", ["pairs.jsonl", "samples.jsonl"])
def test_nothing_is_overwritten(name: str, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    module = CodePolicy(tiny_model, critic="none", reference=False)
    with pytest.raises(FileExistsError, match=f"{name} exists; choose another folder"):
        _trainer(tmp_path, PreferenceWriter()).predict(module, _loader())
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
