"""Preference pairs, against groups worked out by hand and a real prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from tamis.callbacks import PreferenceWriter
from tamis.callbacks.preference_writer import _indexed, in_order
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
    """Characters to change: abzz-abce 2, abzz-wxyz 3; abcd-abce 1, abcd-wxyz 4."""
    writer = PreferenceWriter(pairs="max_edit_distance")
    assert _texts(writer.choose(_group(["abzz", "abcd"], ["abce", "wxyz"]))) == [("abcd", "wxyz")]


def test_the_distance_counts_edits_not_shares() -> None:
    """zz shares nothing with the ten letters and is 10 edits away; ten letters and 15 more share much, and are 15."""
    letters = "abcdefghij"
    writer = PreferenceWriter(pairs="max_edit_distance")
    assert _texts(writer.choose(_group([letters], ["zz", letters + "k" * 15]))) == [(letters, letters + "k" * 15)]


def test_long_programs_are_compared_whole() -> None:
    program, near, far = "ab" * 3000, "c" + "ab" * 3000, "ab" * 20 + "de" * 1500
    writer = PreferenceWriter(pairs="max_edit_distance")
    assert _texts(writer.choose(_group([program], [near, far]))) == [(program, far)]


def test_a_random_pair_hangs_on_seed_and_task_only() -> None:
    group = _group(["a", "b", "c"], ["x", "y", "z"])
    everything = _texts(PreferenceWriter(max_pairs_per_prompt=9).choose(group))
    drawn = [_texts(PreferenceWriter(pairs="random", seed=seed).choose(group)) for seed in range(60)]
    assert drawn == [_texts(PreferenceWriter(pairs="random", seed=seed).choose(group)) for seed in range(60)]
    assert all(len(pairs) == 1 for pairs in drawn)
    assert {pairs[0] for pairs in drawn} == set(everything)
    others = [[{**sample, "task_id": task} for sample in group] for task in range(40)]
    assert len({_texts(PreferenceWriter(pairs="random").choose(other))[0] for other in others}) > 4


def _rewarded(group: list[dict[str, Any]], rewards: list[float]) -> list[dict[str, Any]]:
    return [{**sample, "reward": reward} for sample, reward in zip(group, rewards, strict=True)]


def test_the_hardest_pair_is_the_one_that_the_reward_gets_most_wrong() -> None:
    """Passing a, b with 1 and -2, failing x, y, z with 0, 3 and 9, where 9 was only filled in: b below y."""
    group = _rewarded(_group(["a", "b"], ["x", "y", "z"]), [1.0, -2.0, 0.0, 3.0, 9.0])
    group[4]["reward_failure"] = "raised"
    writer = PreferenceWriter(pairs="hardest")
    assert _texts(writer.choose(group)) == [("b", "y")]
    right = _rewarded(_group(["a", "b"], ["x", "y"]), [5.0, 4.0, 1.0, 2.0])
    assert _texts(writer.choose(right)) == [("b", "y")]


def test_labels_by_reward() -> None:
    """x > a > b = y, whatever the tests say; a sample without a reward of its own is in no pair."""
    group = _rewarded(_group(["a", "b", "lost"], ["x", "y"]), [1.0, 0.0, 7.0, 2.5, 0.0])
    group[2]["reward_failure"] = "raised"
    group[1]["status"] = "internal"  # no verdict is needed

    def chosen(pairs: Any) -> list[tuple[str, str]]:
        return _texts(PreferenceWriter(pairs=pairs, label="reward").choose(group))

    assert chosen("all") == [("a", "b"), ("a", "y"), ("x", "a"), ("x", "b"), ("x", "y")]
    assert chosen("hardest") == [("a", "b")]
    assert len(chosen("random")) == len(chosen("max_edit_distance")) == 1


def test_texts_that_teach_nothing_are_in_no_pair() -> None:
    """Empty ones, and a program that passed one time and failed another."""
    assert _texts(PreferenceWriter().choose(_group(["a", "", "luck"], ["x", " \n", "luck"]))) == [("a", "x")]


@pytest.mark.parametrize(("pairs", "label"), [("hardest", "tests"), ("all", "reward")])
def test_what_goes_by_reward_needs_one_before_anything_is_sampled(
    pairs: Any, label: Any, tiny_model: str, tmp_path: Path
) -> None:
    module = CodePolicy(tiny_model, critic="none", reference=False)
    with pytest.raises(ValueError, match=f"pairs={pairs} with label={label} goes by the samples' rewards"):
        _trainer(tmp_path, PreferenceWriter(pairs=pairs, label=label)).predict(module, _loader())


def test_options_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="'hardest'.*got 'easiest' and 'tests'"):
        PreferenceWriter(pairs="easiest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_pairs_per_prompt must be at least 1, got 0"):
        PreferenceWriter(max_pairs_per_prompt=0)


def test_samples_of_all_ranks_in_the_order_of_the_data() -> None:
    """Three records on two ranks, two samples each; a loader without numbers keeps the ranks' own order."""
    first = _indexed([["a0", "a1", "c0", "c1"]], [[[0, 2]]])
    second = _indexed([["b0", "b1"]], [[[1]]])
    assert in_order([first, second]) == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert in_order([_indexed([["a0", "a1", "b0"], ["c0"]], [])]) == ["a0", "a1", "b0", "c0"]


def test_what_the_sandbox_lost_is_not_rejected() -> None:
    group = _group(["a"], ["x", "y"])
    group[1]["status"] = "internal"
    assert _texts(PreferenceWriter().choose(group)) == [("a", "y")]
    assert PreferenceWriter().choose(group[:2]) == []


@pytest.mark.parametrize("pairs", ["all", "max_edit_distance", "random", "hardest"])
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


def test_two_tasks_of_one_id_are_not_mixed(tiny_model: str, tmp_path: Path) -> None:
    """A right answer to one prompt is no right answer to another, whatever the file calls them."""
    test = "def check(f):\n    assert f() == 1\n"
    prompts = ["def f():\n    return 1\n#", "def f():\n    return 2\n#"]
    tasks = [{"prompt": prompt, "entry_point": "f", "test": test} for prompt in prompts]
    records = [{"task_id": "same", "prompt": task["prompt"], "task": task} for task in tasks]
    module = CodePolicy(tiny_model, num_samples=6, max_new_tokens=4, critic="none", reference=False)
    loader: DataLoader[Any] = DataLoader(records, batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    _trainer(tmp_path, PreferenceWriter()).predict(module, loader)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").open()]
    assert pairs
    assert {pair["prompt"] for pair in pairs} == {prompts[0]}  # the other one never passes


@pytest.mark.parametrize("name", ["pairs.jsonl", "samples.jsonl"])
def test_nothing_is_overwritten(name: str, tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    module = CodePolicy(tiny_model, critic="none", reference=False)
    with pytest.raises(FileExistsError, match=f"{name} exists; choose another folder"):
        _trainer(tmp_path, PreferenceWriter()).predict(module, _loader())
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
