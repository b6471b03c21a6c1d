"""How answers are compared, and how a task asks for another comparison."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

import pytest

from tamis.execution import Sandbox, Status, humaneval, leetcode, mbpp
from tamis.execution.benchmarks.asserts import with_comparator
from tamis.execution.benchmarks.judging import as_published, close, exact, same_json, same_set, same_truth, unordered

CUSTOM = "def compare(actual, expected):\n    return sorted(actual) == sorted(expected)\n"
ROW: dict[str, Any] = {"task_id": 1, "test_list": ["assert f() == [1, 2]", "assert f() == [2, 1]"]}
FLOATS: dict[str, Any] = {"task_id": 2, "test_list": ["assert 0.3333 == f()", "assert type(f()) == float"]}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("compare", "actual", "expected", "same"),
    [
        (exact, [1, 2], [1, 2], True),
        (exact, [1, 2], (1, 2), False),
        (same_json, ((1, 2), {"a": (3,)}), [[1, 2], {"a": [3]}], True),
        (same_json, (1, 2), [1, 2, 3], False),
        (same_json, "ab", ["a", "b"], False),
        (same_json, {"a": 1}, {"a": 1, "b": 2}, False),
        (same_json, None, [], False),
        (unordered, [2, 1, 1], (1, 2, 1), True),
        (unordered, [2, 2, 1], [1, 2, 1], False),
        (unordered, {1, 2}, [2, 1], True),
        (unordered, [[1, 2], {"a": [3]}], [{"a": [3]}, [1, 2]], True),
        (unordered, [[2, 1]], [[1, 2]], False),
        (unordered, "ab", "ba", False),
        (unordered, None, [], False),
        (close(1e-6), 1 + 9e-7, 1.0, True),
        (close(1e-6), 1 + 9e-6, 1.0, False),
        (close(1e-6), [1e9 + 1, {"a": (1e-7,)}], [1e9, {"a": (0.0,)}], True),
        (close(1e-6), [1.0], (1.0,), False),
        (close(1e-6), [1.0], [1.0, 2.0], False),
        (close(1e-6), {"a": 1.0}, {"b": 1.0}, False),
        (close(1e-6), 1j + 1e-8, 1j, True),
        (close(1e-6), math.nan, math.nan, True),
        (close(1e-6), math.nan, 1.0, False),
        (close(1e-6), True, 1.0, True),  # as Python compares
        (close(1e-6), None, 0.0, False),
        (as_published(0), 1 + 5e-7, 1.0, True),
        (as_published(0), 1 + 5e-6, 1.0, False),
        (as_published(1e-4), 1 + 5e-5, 1.0, True),
        (as_published(0), 2, 2.0, True),
        (as_published(1e-4), 1, 1.00001, False),  # not of the same type
        (as_published(0), [1.0 + 1e-7], [1.0], True),
        (as_published(0), (1.0 + 1e-7,), [1.0], False),
        (as_published(0), [1.0], [1.0, 2.0], False),
        (as_published(0), "a", "b", False),
        (as_published(1e-4), None, 1.0, False),
        (as_published(1e-4), math.inf, math.inf, True),
        (as_published(1e-4), math.nan, math.nan, True),
        (as_published(1e-4), math.nan, 1.0, False),
        (same_set, [1, 1, 2], (2, 1), True),
        (same_set, [1, 2], [1], False),
        (same_truth, "match", True, True),
        (same_truth, None, True, False),
    ],
)
def test_comparisons(compare: Any, actual: object, expected: object, same: bool) -> None:
    assert compare(actual, expected) is same


@pytest.mark.parametrize(
    ("comparator", "body", "passes"),
    [
        (None, "[1, 2]", False),
        ("exact", "[1, 2]", False),
        ("unordered", "[1, 2]", True),
        ("unordered", "[1, 3]", False),
        ("unordered", "None", False),
        (CUSTOM, "[2, 1]", True),
        (CUSTOM, "[2, 2]", False),
    ],
)
def test_a_task_asks_for_its_comparator(comparator: str | None, body: str, passes: bool, sandbox: Sandbox) -> None:
    row = ROW if comparator is None else {**ROW, "comparator": comparator}
    assert sandbox.run(mbpp(row, f"def f(): return {body}")).passed is passes


@pytest.mark.parametrize(("comparator", "passes"), [("float:1e-3", True), ("float:1e-9", False), ("float", False)])
def test_tolerances(comparator: str, passes: bool, sandbox: Sandbox) -> None:
    """Also with the candidate on the right; what is no call of the candidate is compared as it is."""
    row = {**FLOATS, "comparator": comparator}
    assert sandbox.run(mbpp(row, "def f(): return 1 / 3")).passed is passes


def test_comparators_work_in_every_layout(sandbox: Sandbox) -> None:
    check = "def check(candidate):\n    for n in (2, 3):\n        assert candidate(n) == list(range(n)), 'order'\n"
    human = {"prompt": "def f(n):\n", "entry_point": "f", "test": check}
    contest = {
        "prompt": '"""\nSolve.\n"""\nclass Solution:\n    def f(self, n):\n        ',
        "test": "my_solution = Solution()\n\ntest_input = { 'n': 3 }\n"
        "assert my_solution.f(**test_input) == [0, 1, 2]\n",
    }
    for build, row, margin in ((humaneval, human, "    "), (leetcode, contest, "        ")):
        backwards, wrong = f"{margin}return list(range(n))[::-1]\n", f"{margin}return [0] * n\n"
        assert sandbox.run(build(row, backwards)).status is Status.FAILED
        assert sandbox.run(build({**row, "comparator": "unordered"}, backwards)).passed
        assert sandbox.run(build({**row, "comparator": "unordered"}, wrong)).status is Status.FAILED


@pytest.mark.parametrize(
    ("comparator", "message"),
    [
        ("fuzzy", "unknown comparator 'fuzzy'; choose exact, unordered, float"),
        ("float:much", "the tolerance of 'float:much' must be a number from 0 up"),
        ("float:-1", "the tolerance of 'float:-1'"),
        ("float:nan", "the tolerance of 'float:nan'"),
        ("def compare(", "'comparator' is not Python"),
        ("def other(compare): ...", "unknown comparator"),
        (3, "'comparator' must be a string, not int"),
    ],
)
def test_a_comparator_that_is_none_is_refused(comparator: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"task 1.*{message}"):
        mbpp({**ROW, "comparator": comparator}, "")


def test_a_comparator_without_effect_is_refused() -> None:
    """Never silently: the result would look as if it had been applied."""
    row = {"task_id": 1, "test_list": ["assert f() > 1"], "comparator": "unordered"}
    with pytest.raises(ValueError, match=r"the comparator 'unordered' has no effect, because the test has no assert"):
        mbpp(row, "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("assert f(1) == 2", "assert _tamis_equal(f(1), 2)"),
        ("assert 2 == f(1), 'two'", "assert _tamis_equal(f(1), 2), 'two'"),
        ("assert (f(1)) == (2)\nx = 1", "assert _tamis_equal(f(1), 2)\nx = 1"),
        ("assert 'é' == f('é') and f(2) == 3", "assert _tamis_equal(f('é'), 'é') and _tamis_equal(f(2), 3)"),
        ("assert not f(1) == 2", "assert not _tamis_equal(f(1), 2)"),
        ("assert (f(1) ==\n  2)\nassert f(3) == 4", "assert (_tamis_equal(f(1), 2)\n)\nassert _tamis_equal(f(3), 4)"),
        ("assert 1 == 1\nassert f(1) < 2\nassert 1 == f(1) == 1\nf(1) == 2", None),
    ],
)
def test_comparisons_are_replaced_in_place(before: str, after: str | None) -> None:
    text, count = with_comparator(before, ast.parse(before), ("f",))
    if after is None:
        assert (text, count) == (before, 0)
        return
    assert ast.unparse(ast.parse(text)) == ast.unparse(ast.parse(after))
    assert text.count("\n") == before.count("\n")
