"""Bugs: each is another program that still parses, and the asserts see most of them."""

import ast
import random

import pytest

from tamis.execution import Sandbox, humaneval
from tamis.tasks import BUGS, Bug, Task, TaskGenerator, corrupt, demonstrate


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    return TaskGenerator(0).generate(train=1500, validation=0, test=0).train


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_bug_changes_the_code_and_parses(bug: Bug, tasks: tuple[Task, ...]) -> None:
    changed = 0
    for task in tasks:
        body = corrupt(task.canonical_solution, bug, random.Random(0))
        if body is not None:
            ast.parse(task.prompt + body)
            assert body != task.canonical_solution
            changed += 1
        if changed == 20:
            break
    assert changed >= 3  # there are tasks that it fits


def test_bug_names_are_distinct() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) > 35


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("> for >=", "return [x for x in xs if x >= 3]", "return [x for x in xs if x > 3]"),
        ("wrong parity", "return len([x for x in xs if x % 2 == 0])", "return len([x for x in xs if x % 2 == 1])"),
        ("missing default", "return max(xs, default=0)", "return max(xs)"),
        ("missing reverse", "return xs[::-1]", "return xs"),
        ("missing reverse=True", "return sorted(xs, reverse=True)", "return sorted(xs)"),
        ("missing abs", "return abs(a - b)", "return a - b"),
        ("missing str", "return '-'.join([str(x) for x in xs])", "return '-'.join([x for x in xs])"),
        ("missing filter", "return [x for x in xs if x > 0]", "return [x for x in xs]"),
        ("missing map", "return [x * x for x in xs]", "return [x for x in xs]"),
        ("slice starts late", "return xs[2:]", "return xs[3:]"),
        ("slice starts early", "return xs[-3:]", "return xs[-2:]"),
        ("slice ends early", "return xs[:-2]", "return xs[:-1]"),
        ("wrong phase", "return xs[::2]", "return xs[1::2]"),
        ("wrong end", "return xs[:2]", "return xs[2:]"),
        ("min for max", "return max(xs, default=0)", "return min(xs, default=0)"),
        ("sum for len", "return len(xs)", "return sum(xs)"),
        ("swapped operands", "return a - b", "return b - a"),
        ("or for and", "return a > 0 and b > 0", "return a > 0 or b > 0"),
        ("swapped branches", "if a > b:\n        return a\n    return b", "if a > b:\n        return b\n    return a"),
        ("missing return", "return a", "a"),
    ],
)
def test_bug_does_what_its_name_says(name: str, right: str, wrong: str) -> None:
    (bug,) = (bug for bug in BUGS if bug.name == name)
    assert corrupt(f"    {right}\n", bug, random.Random(0)) == f"    {wrong}\n"


def test_a_bug_without_a_place_gives_none() -> None:
    (bug,) = (bug for bug in BUGS if bug.name == "missing abs")
    assert corrupt("    return a\n", bug, random.Random(0)) is None


def test_half_of_the_demonstrations_are_changed_and_more_than_half_pass(tasks: tuple[Task, ...]) -> None:
    rng = random.Random(0)
    bodies = [demonstrate(task, rng, 0.5) for task in tasks]
    changed = [task.canonical_solution != body for task, body in zip(tasks, bodies, strict=True)]
    assert 0.45 < sum(changed) / len(changed) < 0.56
    programs = [humaneval(task.row(), body) for task, body in zip(tasks[:300], bodies, strict=False)]
    with Sandbox(workers=2) as sandbox:
        passed = [verdict.passed for verdict in sandbox.run_many(programs)]
    assert 0.5 < sum(passed) / len(passed) < 0.65
    seen = [not right for right, other in zip(passed, changed, strict=False) if other]
    assert sum(seen) / len(seen) > 0.75  # the asserts notice most bugs
    assert all(right for right, other in zip(passed, changed, strict=False) if not other)


def test_the_rate_of_bugs(tasks: tuple[Task, ...]) -> None:
    rng = random.Random(0)
    assert all(demonstrate(task, rng, 0.0) == task.canonical_solution for task in tasks[:50])
    assert all(demonstrate(task, rng, 1.0) != task.canonical_solution for task in tasks[:50])
    with pytest.raises(ValueError, match="bug_rate is 50"):
        demonstrate(tasks[0], rng, 50)
