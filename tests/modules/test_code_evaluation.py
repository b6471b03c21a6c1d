"""What an evaluation counts, by hand: pass@k with faults of the sandbox left out, ids on several ranks, settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from tamis.execution import Status, Verdict
from tamis.functional import bootstrap_interval
from tamis.modules import CodePolicy, UnitTests
from tamis.modules.code_evaluation import (
    EvaluationSettings,
    each_once,
    gather,
    measure,
    outcome,
    place,
)

Rows = list[dict[str, Any]]


def _rows(task_id: str, statuses: list[str], **more: Any) -> Rows:
    common = {"task_id": task_id, "prompt": f"prompt of {task_id}", "extracted": True, "truncated": False, **more}
    return [
        {**common, "sample": number, "status": status, "passed": status == "passed"}
        for number, status in enumerate(statuses)
    ]


def test_faults_of_the_sandbox_shrink_n() -> None:
    """By hand: a has 1 of 2 right, b 1 of 1 (one fault), c no verdict at all.

    pass@1 is (1/2 + 1) / 2; pass@2 is left with a alone, whose two samples are sure to hold a right one.
    """
    rows = _rows("a", ["passed", "failed"]) + _rows("b", ["internal", "passed"]) + _rows("c", ["internal"] * 2)
    found = measure(rows, [1, 2])
    assert found.pass_at[1][::3] == (0.75, 2)
    assert found.pass_at[1][1:3] == bootstrap_interval([0.5, 1.0])
    assert found.pass_at[2] == (1.0, 1.0, 1.0, 1)
    assert (found.problems, found.problems_without_verdict, found.samples) == (3, 1, 6)
    assert found.outcomes["internal"] == 3
    assert found.metrics()["internal_rate"] == 0.5


def test_a_run_says_what_the_sandbox_lost(tiny_model: str, tmp_path: Path) -> None:
    """Task 0 loses its one verdict; of the others all pass, as anything is a comment until its line ends."""

    class Lossy(CodePolicy):
        def judged_samples(self, batch: Any, n: int, temperature: float, top_p: float = 1.0) -> Rows:
            rows = super().judged_samples(batch, n, temperature, top_p)
            return [{**row, "passed": False, "status": "internal"} if row["task_id"] == 0 else row for row in rows]

    task = {
        "prompt": "def f():\n    return 1\n    #",
        "entry_point": "f",
        "test": "def check(f):\n    assert f() == 1\n",
    }
    records = [{"task_id": index, "prompt": task["prompt"], "task": task, "stop": ["\n"]} for index in range(3)]
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=str(tmp_path),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Lossy(tiny_model, critic="none", reference=False, max_new_tokens=4)
    loader: DataLoader[Any] = DataLoader(records, batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="1 of 3 samples got no verdict.*1 of 3 problems have no other sample"):
        trainer.test(module, loader, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["test/pass@1"] == 1.0
    assert logged["test/internal_rate"] == pytest.approx(1 / 3)


def test_without_any_verdict_there_is_no_estimate() -> None:
    found = measure(_rows("a", ["internal"]), [1])
    assert math.isnan(found.pass_at[1].value)
    assert found.pass_at[1].problems == 0


def test_every_sample_has_one_outcome() -> None:
    """An answer without code is no wrong program, unless what it says passes; a fault is a fault in any case."""
    rows = _rows("a", [str(status) for status in Status], truncated=True) + _rows(
        "b", ["passed", "failed", "error", "internal"], extracted=False
    )
    found = measure(rows, [1])
    assert sum(found.outcomes.values()) == found.samples == len(rows)
    assert found.outcomes == {
        **{str(status): 1 for status in Status}, "passed": 2, "internal": 2, "extraction_failed": 2,
    }  # fmt: skip
    assert [outcome(row) for row in rows[-3:]] == ["extraction_failed", "extraction_failed", "internal"]
    assert found.truncated == len(Status)
    rates = found.metrics()
    assert rates["truncated_rate"] == len(Status) / len(rows)
    assert rates["extraction_failed_rate"] == 2 / len(rows)
    assert {f"{status}_rate" for status in Status} <= set(rates)


def test_the_order_of_the_rows_says_nothing() -> None:
    rows = [row for name in "abcde" for row in _rows(name, ["passed", "failed", "error"][: 1 + ord(name) % 3])]
    assert measure(rows[::-1], [1]) == measure(rows, [1])


def test_ids_are_sorted_as_people_do() -> None:
    ids = ["HumanEval/10", "HumanEval/2", "Mbpp/1", "HumanEval/2b", 11, 9, "x/3/20", "x/3/4"]
    rows = [{"task_id": name, "sample": 0} for name in ids]
    expected = [9, 11, "HumanEval/2", "HumanEval/2b", "HumanEval/10", "Mbpp/1", "x/3/4", "x/3/20"]
    assert [row["task_id"] for row in sorted(rows, key=place)] == expected
    assert place({"task_id": "a", "sample": 2}) < place({"task_id": "a", "sample": 10})


def test_a_task_that_a_sampler_repeats_counts_once() -> None:
    """Seven tasks on two ranks: the second one is given the first task again, to have four as well."""
    tasks = [_rows(str(index), ["passed", "failed"]) for index in range(7)]
    ranks = [sum(tasks[0::2], Rows()), sum([*tasks[1::2], tasks[0]], Rows())]
    whole = sum(tasks, Rows())
    assert each_once(ranks) == each_once([whole]) == whole
    assert gather(whole) == [whole]  # without other processes


@pytest.mark.parametrize("ranks", ["one", "two"])
def test_two_tasks_with_one_id_are_refused(ranks: str) -> None:
    first, second = _rows("t/1", ["passed"]), _rows("t/1", ["failed"], prompt="another")
    parts = [first + second] if ranks == "one" else [first, second]
    with pytest.raises(ValueError, match="task_id 't/1' belongs to more than one task"):
        each_once(parts)


def test_the_same_task_twice_on_one_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to more than one task"):
        each_once([_rows("t/1", ["passed"]) * 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_samples": 2}, "eval_temperature 0 is greedy.*eval_samples=2"),
        ({"eval_top_p": 0.9}, "eval_temperature 0 is greedy.*eval_top_p=0.9"),
        ({"pass_at": [1, 10]}, r"pass_at=\[1, 10\] needs.*each from 1 to eval_samples=1"),
        ({"pass_at": [0], "eval_samples": 3, "eval_temperature": 1.0}, r"pass_at=\[0\]"),
        ({"pass_at": []}, r"pass_at=\[\] needs one k or more"),
        ({"eval_samples": 0}, "eval_samples >= 1.*got 0"),
        ({"eval_temperature": -1.0}, "eval_temperature >= 0.*-1.0"),
        ({"eval_top_p": 0.0, "eval_temperature": 1.0}, "0 < eval_top_p <= 1, got 1, 1.0 and 0.0"),
    ],
)
def test_settings_that_would_mislead_are_refused(options: dict[str, Any], message: str, tiny_model: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodePolicy(tiny_model, **options)


def test_the_mode_is_named() -> None:
    assert EvaluationSettings(1, 0.0, 1.0, (1,)).mode == "greedy"
    assert EvaluationSettings(1, 0.2, 0.95, (1,)).mode == "sampled"


def _verdicts(*statuses: str) -> list[Verdict]:
    return [Verdict(Status(status), "reason", 0.0, 0.0, "process") for status in statuses]


def test_rewards_of_lost_programs_teach_nothing() -> None:
    """The mean of the prompt's others, by hand; where there are none, of the batch."""
    reward = UnitTests(passed=1.0, failed=-1.0)
    prompts = ["a", "a", "a", "a", "b"]
    verdicts = _verdicts("passed", "failed", "internal", "passed", "internal")
    expected = torch.tensor([1.0, -1.0, 1 / 3, 1.0, 1 / 3])
    torch.testing.assert_close(reward.rewards(prompts, verdicts), expected)


def test_a_sandbox_that_judges_nothing_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no verdict on any of 2 programs.*reason: reason"):
        UnitTests().rewards(["a", "b"], _verdicts("internal", "internal"))


def test_the_sandbox_is_the_one_asked_for(tiny_model: str) -> None:
    from tamis.execution import Limits

    task = {"prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f() == 1\n"}
    module = CodePolicy(tiny_model, isolation="seccomp", limits=Limits(cpu_s=0.5), critic="none", reference=False)
    try:
        module.verifier.start()
        assert module.verifier.level == "seccomp"
        ((verdict, extracted),) = module.verifier.judge([{"task": task}], ["    while True: pass\n"])
        assert (verdict.status, verdict.level, extracted) == ("timeout", "seccomp", True)
        assert 0.5 <= verdict.cpu_s < 2
    finally:
        module.teardown("test")
