"""MBPP's rows, in each of their published layouts, become programs with the right verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tamis.execution import Sandbox, Status, mbpp

ASSERTS = ["assert inc(1) == 2", "assert inc(-1) == 0"]
CODE = "def inc(x):\r\n    return x + 1"
FULL: dict[str, Any] = {
    "text": "Write a function.",
    "code": CODE,
    "task_id": 11,
    "test_setup_code": "ONE = 1",
    "test_list": [*ASSERTS, "assert inc(ONE) == 2"],
    "challenge_test_list": ["assert False"],
}
SANITISED: dict[str, Any] = {
    "prompt": "Write a function.",
    "code": CODE,
    "task_id": 11,
    "test_imports": ["import math"],
    "test_list": [*ASSERTS, "assert inc(math.inf) == math.inf"],
}
DEEPSEEK: dict[str, Any] = {"prompt": "Write a function.", "test": ASSERTS, "code": CODE, "task_id": 11}
TREE: dict[str, Any] = {
    "text": "Write a function.",
    "code": "class Node:\n    def __init__(self, x):\n        self.x = x\n        self.left = None\ndef depth(n):\n"
    "    return 1 + depth(n.left) if n else 0",
    "test_setup_code": "root = Node(1)\r\nroot.left = Node(2)",
    "test_list": ["assert depth(root) == 2"],
    "task_id": 12,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def test_references_pass_and_none_does_not(sandbox: Sandbox) -> None:
    rows = (FULL, SANITISED, DEEPSEEK)
    programs = [
        *(mbpp(row, row["code"]) for row in rows),
        mbpp(FULL, f"Here:\n```python\n{CODE}\n```\nDone."),
        *(mbpp(row, "def inc(x): return x") for row in rows),
        *(mbpp(row, "def inc(x): return None") for row in rows),
    ]
    statuses = [verdict.status for verdict in sandbox.run_many(programs)]
    assert statuses == [Status.PASSED] * 4 + [Status.FAILED] * 5 + [Status.FAILED]


def test_a_missing_function_is_an_error(sandbox: Sandbox) -> None:
    verdict = sandbox.run(mbpp(FULL, "def other(x): return x + 1"))
    assert (verdict.status, "inc" in verdict.detail) == (Status.ERROR, True)


def test_set_up_that_builds_the_candidates_objects(sandbox: Sandbox) -> None:
    assert sandbox.run(mbpp(TREE, TREE["code"])).passed
    wrong = TREE["code"].replace("1 + depth", "2 + depth")
    assert sandbox.run(mbpp(TREE, wrong)).status is Status.FAILED


def test_classes_are_those_of_the_reference() -> None:
    assert mbpp(TREE, TREE["code"]).classes == ("Node",)
    assert mbpp(
        {**TREE, "code": TREE["code"].replace("Node", "node"), "test_setup_code": "root = node(1)"}, ""
    ).classes == ("node",)


@pytest.mark.parametrize(
    ("code", "asserts", "names"),
    [
        ("def sum(a, b): return a + b", ["assert sum(1, 2) == 3"], ("sum",)),
        ("def g(): ...\ndef f(): return {g}", ["assert set(f()) == set()"], ("f",)),
        ("class A: ...\ndef f(a): ...", ["assert f(A()) == 1"], ("f", "A")),
        ("f = lambda: 1", ["assert f() == 1"], ("f",)),
        (None, ["assert set(f(1)) == set([1])", "assert f(2) == math.inf"], ("f",)),
        (None, ["assert sum(1, 2) == 3"], ("sum",)),
        (None, ["assert [f(x) for x in range(2)] == [0, 1]"], ("f",)),
        ("def other(): ...", ["assert f(1) == 1"], ("f",)),
    ],
)
def test_what_a_test_may_use(code: str | None, asserts: list[str], names: tuple[str, ...]) -> None:
    row = {"task_id": 1, "test_list": asserts} | ({} if code is None else {"code": code})
    assert mbpp(row, code or "").names == names


def test_a_builtin_may_be_the_entry_point(sandbox: Sandbox) -> None:
    row = {"task_id": 126, "test_list": ["assert sum(10, 15) == 6"]}
    assert sandbox.run(mbpp(row, "def sum(a, b):\n    return 6")).passed
    assert not sandbox.run(mbpp(row, "def sum(a, b):\n    return 7")).passed


def test_modules_that_only_the_reference_imports(sandbox: Sandbox) -> None:
    row = {
        "task_id": 596,
        "code": "import sys\ndef f(x): return sys.getsizeof(x)",
        "test_list": ["assert f(1) == sys.getsizeof(1)"],
    }
    assert sandbox.run(mbpp(row, row["code"])).passed  # type: ignore[arg-type]


def test_answers_that_only_count_as_true(sandbox: Sandbox) -> None:
    """A match is no data, but the asserts ask for no more than its truth."""
    row = {"task_id": 737, "test_list": ["assert vowel('annie')", "assert not vowel('dawood')"]}
    assert sandbox.run(mbpp(row, "import re\ndef vowel(s):\n    return re.search('^[aeiou]', s)")).passed
    for wrong in ("None", "True", "re.search('d', s)"):
        assert not sandbox.run(mbpp(row, f"import re\ndef vowel(s):\n    return {wrong}")).passed
    compared = {"task_id": 1, "test_list": ["assert f(1)", "assert f(2) == 4"]}
    assert mbpp(compared, "").names == ("f",)


@pytest.mark.parametrize(("text", "extracted"), [("def inc(x): ...", True), ("Sorry.", False), ("", False)])
def test_answers_without_code_are_marked(text: str, extracted: bool) -> None:
    assert mbpp(FULL, text).extracted is extracted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task_id": 11, "code": CODE}, r"11.*'test'"),
        ({}, "without task_id"),
        ({"task_id": 11, "test_list": "assert True"}, "list of strings"),
        ({"task_id": 11, "test_list": ["assert f("]}, "'test_list' is not Python"),
        ({"task_id": 11, "test_list": ["assert True"]}, "call no function"),
        ({"task_id": 11, "test_list": ["assert f()"], "code": "def f("}, "'code' is not Python"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mbpp(row, "")
