"""Rows of the published benchmarks become programs."""

from typing import Any

import pytest

from tamis.execution import Program, Sandbox, Status, humaneval, mbpp

HUMANEVAL: dict[str, Any] = {
    "task_id": "HumanEval/0",
    "prompt": 'def inc(x):\n    """One more."""\n',
    "entry_point": "inc",
    "canonical_solution": "    return x + 1\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 2\n",
}
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


def test_programs_get_the_right_verdicts() -> None:
    programs = [
        humaneval(HUMANEVAL, HUMANEVAL["canonical_solution"]),
        *(mbpp(row, row["code"]) for row in (FULL, SANITISED, DEEPSEEK)),
        mbpp(FULL, f"Here:\n```python\n{CODE}\n```\nDone."),
        humaneval(HUMANEVAL, "    return x\n"),
        *(mbpp(row, "def inc(x): return x") for row in (FULL, SANITISED, DEEPSEEK)),
    ]
    with Sandbox(workers=1) as sandbox:
        statuses = [verdict.status for verdict in sandbox.run_many(programs)]
    assert statuses == [Status.PASSED] * 5 + [Status.FAILED] * 4


def test_humaneval_layout() -> None:
    program = humaneval(HUMANEVAL, "    return 3\n")
    assert program.source == HUMANEVAL["prompt"] + "    return 3\n"
    assert program.test == HUMANEVAL["test"] + "\ncheck(inc)"
    assert hash(program) == hash(Program(program.source, program.test))


@pytest.mark.parametrize("key", ["prompt", "entry_point", "test"])
def test_humaneval_names_a_missing_key(key: str) -> None:
    row = {name: value for name, value in HUMANEVAL.items() if name != key}
    with pytest.raises(ValueError, match=rf"HumanEval/0.*'{key}'"):
        humaneval(row, "")


def test_mbpp_names_a_missing_key() -> None:
    with pytest.raises(ValueError, match=r"11.*'test'"):
        mbpp({"task_id": 11, "code": CODE}, "")
    with pytest.raises(ValueError, match="without task_id"):
        mbpp({}, "")


def test_rows_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="list of strings"):
        mbpp({"task_id": 11, "test_list": "assert True"}, "")
    with pytest.raises(ValueError, match="must be a string"):
        humaneval({**HUMANEVAL, "prompt": 3}, "")
