"""HumanEval's rows, and answers to them of every form, become programs with the right verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tamis.execution import Program, Sandbox, Status, humaneval, program

PROMPT = 'import math\n\n\ndef twice(x):\n    return 2 * x\n\n\ndef inc(x):\n    """One more."""\n'
ROW: dict[str, Any] = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "entry_point": "inc",
    "canonical_solution": "    return x + 1\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n"
    "    assert candidate(twice(1)) == 3\n    assert candidate(-1) == 0\n",
}
RIGHT = "def inc(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param("    return x + 1\n", id="body"),
        pytest.param("\n    return x + 1\n\n\nprint(inc(1))", id="body, then a call"),
        pytest.param("\treturn x + 1\n", id="body with tabs"),
        pytest.param("    if x:\r\n        return x + 1\r\n    return 1\r\n", id="CRLF"),
        pytest.param("    return twice(x) - x + 1\n", id="the prompt's helper"),
        pytest.param("    return x + 1<|endoftext|>\n\nfoo bar", id="end token"),
        pytest.param(RIGHT, id="the whole function"),
        pytest.param(f"Here you are.\n\n{RIGHT}\nIt adds one.", id="the whole function in prose"),
        pytest.param(f"```python\n{PROMPT}    return x + 1\n```", id="the whole prompt in a fence"),
        pytest.param(f"<think>hm</think>Sure:\n```python\n{RIGHT}```\nIt's simple.", id="thinking, fence and prose"),
        pytest.param(
            "```python\ndef one():\n    return 1\n\n\ndef inc(x):\n    return x + one()\n```", id="helper before"
        ),
        pytest.param("```python\ndef inc(x):\n    return math.floor(x) + 1\n```", id="the prompt's import"),
        pytest.param(f"```python\nfrom __future__ import annotations\n{RIGHT}```", id="an import from the future"),
        pytest.param("```python\n    return x + 1\n```", id="body in a fence"),
        pytest.param("```python\nreturn x + 1\n```", id="body in a fence, without its margin"),
        pytest.param("```python\nif x:\n    return x + 1\nreturn 1\n```", id="body in a fence, without any margin"),
        pytest.param("```python\ny = x\n    return y + 1\n```", id="body in a fence, first line without its margin"),
        pytest.param("    return x + 1\n```\nThis adds one.", id="closing fence only"),
        pytest.param(f"```\npip install x\n```\n```python\n{RIGHT}```", id="two blocks"),
    ],
)
def test_right_answers_pass(completion: str, sandbox: Sandbox) -> None:
    made = humaneval(ROW, completion)
    verdict = sandbox.run(made)
    assert (verdict.status, verdict.detail) == (Status.PASSED, "")
    assert made.extracted


@pytest.mark.parametrize(
    ("completion", "status", "extracted"),
    [
        ("    return None\n", Status.FAILED, True),
        ("    pass\n", Status.FAILED, True),
        ("    raise ValueError\n", Status.ERROR, True),
        ("def inc(x):\n    return None\n", Status.FAILED, True),
        ("```python\ndef inc(x):\n    return x\n```", Status.FAILED, True),
        ("```python\ndef other(x):\n    return x + 1\n```", Status.FAILED, True),
        ("", Status.FAILED, False),
        ("\n\n", Status.FAILED, False),
        ("I cannot do this.", Status.ERROR, False),
    ],
)
def test_wrong_answers_do_not(completion: str, status: Status, extracted: bool, sandbox: Sandbox) -> None:
    made = humaneval(ROW, completion)
    assert (sandbox.run(made).status, made.extracted) == (status, extracted)


def test_a_program_says_what_its_test_may_use() -> None:
    made = humaneval(ROW, "    return 3\n")
    assert made.source == PROMPT + "    return 3\n"
    assert made.test == ROW["test"] + "\ncheck(inc)"
    assert made.names == ("inc",)
    assert "def twice" in made.prelude
    assert made == Program(made.source, made.test, made.prelude, made.names, ())


def test_a_test_that_calls_check_itself_is_run_once(sandbox: Sandbox) -> None:
    copy = {**ROW, "task_id": "Python/0", "test": ROW["test"] + "\ncheck(inc)\n"}
    made = humaneval(copy, "    return x + 1\n")
    assert made.test == copy["test"]
    assert sandbox.run(made).calls == sandbox.run(humaneval(ROW, "    return x + 1\n")).calls == 2


def test_a_test_of_plain_asserts_is_run_as_it_is(sandbox: Sandbox) -> None:
    row = {**ROW, "test": "assert inc(1) == 2"}
    assert sandbox.run(humaneval(row, "    return x + 1\n")).passed
    assert not sandbox.run(humaneval(row, "    return x\n")).passed


@pytest.mark.parametrize(
    "prompt", ["def inc(x):\n    # One more.\n", "def inc(x):\n    return", "Write inc, please.\n"]
)
def test_prompts_of_any_kind(prompt: str, sandbox: Sandbox) -> None:
    """A head alone is no Python yet, a description never will be: the test needs neither."""
    row = {**ROW, "prompt": prompt, "test": "def check(f):\n    assert f(1) == 2\n"}
    answer = RIGHT if "Write" in prompt else " x + 1\n" if prompt.endswith("return") else "    return x + 1\n"
    assert sandbox.run(humaneval(row, answer)).passed


def test_a_continuation_ends_at_the_next_statement(sandbox: Sandbox) -> None:
    """The text after a body is often another task, or a call that fails."""
    text = "    return x + 1\n\ndef check(f):\n    pass\n\nraise ValueError\n"
    assert sandbox.run(program(ROW, text)).passed
    assert sandbox.run(program(ROW, text, "stripped")).passed
    assert not sandbox.run(humaneval(ROW, text)).passed


@pytest.mark.parametrize("key", ["prompt", "entry_point", "test"])
def test_a_missing_key_is_named(key: str) -> None:
    row = {name: value for name, value in ROW.items() if name != key}
    with pytest.raises(ValueError, match=rf"HumanEval/0.*'{key}'"):
        humaneval(row, "")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prompt", 3, "'prompt' must be a string, not int"),
        ("entry_point", "Solution().f", "'entry_point' must be the name of a function, not 'Solution"),
        ("test", "def check(", "'test' is not Python .*line 1"),
    ],
)
def test_rows_of_the_wrong_shape_are_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"rows.jsonl:4: task 'HumanEval/0'.*{message}"):
        humaneval({**ROW, key: value, "_source": "rows.jsonl:4"}, "")
