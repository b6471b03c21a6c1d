"""Own tasks, written as cases of inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tamis.execution import Sandbox, Status, program

MEAN: dict[str, Any] = {
    "task_id": "mean",
    "prompt": "Write mean(xs).",
    "entry_point": "mean",
    "cases": [{"input": [[1, 2]], "output": 1.5}, {"input": {"xs": [3]}, "output": 3.0}],
}
PAIRS: dict[str, Any] = {
    "task_id": "pairs",
    "prompt": "def pairs(a, b):\n",
    "entry_point": "pairs",
    "cases": [{"input": [[1, 2], "xy"], "output": [[1, "x"], [2, "y"]]}],
}
RIGHT = "def mean(xs):\n    return sum(xs) / len(xs)\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("row", "answer", "status"),
    [
        (MEAN, RIGHT, Status.PASSED),
        (MEAN, f"So:\n```python\n{RIGHT}```", Status.PASSED),
        (MEAN, "def mean(xs):\n    return sum(xs) / 2\n", Status.FAILED),
        (MEAN, "def mean(xs):\n    return None\n", Status.FAILED),
        (MEAN, "def mean(xs):\n    return sum(xs) / len(xs) + 1e-9\n", Status.FAILED),
        ({**MEAN, "comparator": "float"}, "def mean(xs):\n    return sum(xs) / len(xs) + 1e-9\n", Status.PASSED),
        (PAIRS, "    return list(zip(a, b))\n", Status.PASSED),
        (PAIRS, "    return [[x, y] for x, y in zip(a, b)]\n", Status.PASSED),
        (PAIRS, "    return list(zip(b, a))\n", Status.FAILED),
        (PAIRS, "```python\ndef pairs(a, b):\n    return list(zip(a, b))\n```", Status.PASSED),
        (PAIRS, "    return None\n", Status.FAILED),
    ],
)
def test_verdicts(row: dict[str, Any], answer: str, status: Status, sandbox: Sandbox) -> None:
    made = program(row, answer)
    assert (sandbox.run(made).status, made.extracted) == (status, True)


def test_the_reason_names_the_case(sandbox: Sandbox) -> None:
    verdict = sandbox.run(program(MEAN, "def mean(xs):\n    return 1.5\n"))
    assert "case 2, {'xs': [3]}: 1.5 instead of 3.0" in verdict.detail


def test_infinite_outputs(sandbox: Sandbox) -> None:
    """As Python's JSON writes and reads them."""
    row = {**PAIRS, "cases": [{"input": [1, 2], "output": float("inf")}]}
    assert sandbox.run(program(row, "    return float('inf')\n")).passed


@pytest.mark.parametrize("answer", ["", "I do not know."])
def test_an_answer_without_code_is_marked(answer: str) -> None:
    assert not program(MEAN, answer).extracted
    assert not program(PAIRS, answer).extracted


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "'cases' must be a list with at least one case"),
        ({}, "'cases' must be a list"),
        ([{"input": [1], "output": 1}, {"input": 1, "output": 2}], "case 2 must be an object with 'input'"),
        ([{"input": [1]}], "case 1 must be an object"),
        (["f(1) == 2"], "case 1 must be an object"),
    ],
)
def test_cases_that_are_none_are_refused(cases: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"own.jsonl:3: task 'mean': {message}"):
        program({**MEAN, "cases": cases, "_source": "own.jsonl:3"}, RIGHT)
