"""Tasks: their references are right, their splits are apart, and a seed gives the same tasks everywhere."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from tamis.execution import Sandbox, Status, humaneval
from tamis.tasks import Task, TaskGenerator, TaskSplits, generator
from tamis.tasks.generator import split_of


@pytest.fixture(scope="module")
def splits() -> TaskSplits:
    return TaskGenerator(0).generate(train=600, validation=50, test=100)


def all_tasks(splits: TaskSplits) -> list[Task]:
    return [*splits.train, *splits.validation, *splits.test]


def test_every_reference_passes_and_an_empty_body_fails(splits: TaskSplits) -> None:
    tasks = all_tasks(splits)[::4]
    with Sandbox(workers=2) as sandbox:
        right = sandbox.run_many([humaneval(task.row(), task.canonical_solution) for task in tasks])
        empty = sandbox.run_many([humaneval(task.row(), "    return None\n") for task in tasks])
    assert [verdict.detail for verdict in right if not verdict.passed] == []
    assert {verdict.status for verdict in empty} == {Status.FAILED}


def test_rows_have_the_layout_of_humaneval(splits: TaskSplits) -> None:
    row = splits.validation[3].row()
    assert list(row)[:5] == ["task_id", "prompt", "entry_point", "canonical_solution", "test"]
    assert row["task_id"] == "tamis/validation/3"
    assert row["prompt"].startswith("def f(")
    assert row["prompt"].endswith('."""\n')
    assert row["canonical_solution"].startswith("    ")
    assert row["test"].count("\n    assert candidate(") == 5


def test_no_split_shares_a_composition_or_a_reference_with_another(splits: TaskSplits) -> None:
    for value in ("composition", "canonical_solution"):
        kinds = [{task.row()[value] for task in split} for split in (splits.train, splits.validation, splits.test)]
        assert sum(map(len, kinds)) == len(set.union(*kinds))


def test_one_composition_has_one_reference_and_several_wordings() -> None:
    tasks = TaskGenerator(0).generate(3000, 0, 0).train
    references, prompts = defaultdict(set), defaultdict(set)
    for task in tasks:
        references[task.composition].add(task.canonical_solution)
        prompts[task.composition].add(task.prompt)
    assert {len(codes) for codes in references.values()} == {1}
    assert not {task.canonical_solution for task in tasks} & {f"    return {name}\n" for name in ("xs", "s", "words")}
    assert len({code for codes in references.values() for code in codes}) == len(references)
    assert sum(len(wordings) > 1 for wordings in prompts.values()) > 300
    assert sum(map(len, prompts.values())) == len(tasks)  # no prompt twice


def test_a_prompt_means_one_composition() -> None:
    meaning: dict[str, str] = {}
    for seed in range(3):
        for task in TaskGenerator(seed).generate(2000, 0, 0).train:
            assert meaning.setdefault(task.prompt, task.composition) == task.composition


def test_families_have_their_shares(splits: TaskSplits) -> None:
    families = Counter(task.family for task in all_tasks(splits))
    assert set(families) == {"ints", "chars", "words", "pairs"}
    assert 0.38 < families["ints"] / families.total() < 0.52
    assert min(families.values()) > 0.1 * families.total()


def test_asserts_tell_more_than_a_constant(splits: TaskSplits) -> None:
    for task in all_tasks(splits):
        lines = [line for line in task.test.splitlines() if "assert" in line]
        assert len(set(lines)) == 5
        assert len({line.split(") == ", 1)[1] for line in lines}) >= 2


def test_tasks_are_short(splits: TaskSplits) -> None:
    tasks = all_tasks(splits)
    assert sum(len(task.prompt) for task in tasks) / len(tasks) < 100
    assert max(task.canonical_solution.count("\n") for task in tasks) <= 3


def test_the_test_split_does_not_depend_on_the_others(splits: TaskSplits) -> None:
    again = TaskGenerator(0).generate(train=5, validation=0, test=100)
    assert again.test == splits.test
    assert again.train == splits.train[:5]


def test_other_seed_other_tasks_but_the_same_division() -> None:
    other = TaskGenerator(1).generate(50, 0, 50)
    first = TaskGenerator(0).generate(50, 0, 50)
    assert {task.prompt for task in other.test} != {task.prompt for task in first.test}
    assert {split_of(task.composition) for task in other.test} == {"test"}


SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
from tamis.tasks import TaskGenerator
print(json.dumps([task.row() for task in TaskGenerator(0).generate(40, 5, 5).train]))
"""


def test_the_hash_seed_changes_nothing(splits: TaskSplits) -> None:
    script = SCRIPT.format(path=sys.path)
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout
    assert json.loads(output) == [task.row() for task in splits.train[:40]]


def test_impossible_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="test is -1"):
        TaskGenerator(0).generate(0, 0, -1)
    monkeypatch.setattr(generator, "MAX_DRAWS_PER_TASK", 2)
    with pytest.raises(ValueError, match="of 50 distinct test tasks in 101 draws; ask for fewer"):
        TaskGenerator(0).generate(0, 0, 50)
