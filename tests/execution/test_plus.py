"""HumanEval+ and MBPP+: the outputs come from the reference, beside the test, and inputs get their types back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

from tamis.execution import Sandbox, Status, program
from tamis.execution.benchmarks.restoring import restore, shapes_of

HUMAN: dict[str, Any] = {
    "task_id": "HumanEval/0",
    "prompt": 'def half(x, log):\n    """Notes x in the log; returns half of it plus the length of the log."""\n',
    "entry_point": "half",
    "canonical_solution": "    log.append(x)\n    return x / 2 + len(log)\n",
    "base_input": [[1, []], [3.0, [2]]],
    "plus_input": [[7, []]],
    "atol": 0,
    "contract": "",
}
MBPP: dict[str, Any] = {
    "task_id": "Mbpp/1",
    "prompt": '"""\nWrite a function to add tuples.\nassert add((1, 2), [3]) == (1, 2, 3)\n"""\n',
    "entry_point": "add",
    "canonical_solution": "def add(a, b):\n    return a + tuple(b)\n",
    "base_input": [[[1, 2], [3]]],
    "plus_input": [[[], []], [[4, [5]], [6]]],
    "assertion": "assert add((1, 2), [3]) == (1, 2, 3)\n",
    "atol": 0,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def _mbpp(name: str, reference: str, assertion: str, inputs: list[Any]) -> dict[str, Any]:
    code = f"def {name}(x):\n    return {reference}\n"
    changed = {"entry_point": name, "canonical_solution": code, "assertion": assertion}
    return {**MBPP, **changed, "base_input": [], "plus_input": inputs}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (HUMAN["canonical_solution"], Status.PASSED),
        ("    return x / 2 + len(log) + 1 + 1e-8\n", Status.PASSED),
        ("    return x / 2 + len(log) + 1 + 1e-3\n", Status.FAILED),
        ("    return x / 2 + len(log) + 1 if x < 7 else 3\n", Status.FAILED),
        ("    return None\n", Status.FAILED),
    ],
)
def test_humaneval_plus(body: str, status: Status, sandbox: Sandbox) -> None:
    assert sandbox.run(program(HUMAN, body)).status is status


def test_no_answer_sees_the_reference(sandbox: Sandbox) -> None:
    made = program(HUMAN, "    return x / 2 + len(log) + 1\n")
    assert "log.append" not in made.source
    assert sandbox.run(made).calls == 3


def test_a_root_is_right_if_it_is_one(sandbox: Sandbox) -> None:
    """The task of HumanEval/32: another root than the reference's is as good."""
    row = {
        **HUMAN,
        "prompt": "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\ndef find_zero(xs):\n",
        "entry_point": "find_zero",
        "canonical_solution": "    return 2.0\n",
        "base_input": [[[-4, 0, 1]]],
        "plus_input": [],
    }
    for root, passes in ((2.0, True), (-2.0, True), (1.99, False)):
        assert sandbox.run(program(row, f"    return {root}\n")).passed is passes


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (MBPP["canonical_solution"], Status.PASSED),
        ("def add(a, b):\n    return list(a) + b\n", Status.FAILED),
        ("def add(a, b):\n    return a + tuple(b) if a else ()\n", Status.PASSED),
        ("def add(a, b):\n    return a + b\n", Status.ERROR),
        ("def add(a, b):\n    return None\n", Status.FAILED),
    ],
)
def test_mbpp_plus(code: str, status: Status, sandbox: Sandbox) -> None:
    assert sandbox.run(program(MBPP, code)).status is status


@pytest.mark.parametrize(
    ("row", "answer", "passes"),
    [
        (_mbpp("Diff", "list(set(x))", "assert Diff([2, 1]) == [1, 2]", [[[3, 1]]]), "x[::-1] + x", True),
        (_mbpp("Diff", "list(set(x))", "assert Diff([2, 1]) == [1, 2]", [[[3, 1]]]), "x[1:]", False),
        (
            _mbpp("f", "__import__('re').match('a', x)", "assert f('a')\nassert not f('b')", [["ac"], ["b"]]),
            "x < 'b'",
            True,
        ),
        (
            _mbpp("f", "__import__('re').match('a', x)", "assert f('a')\nassert not f('b')", [["ac"], ["b"]]),
            "True",
            False,
        ),
        ({**_mbpp("f", "1 / x", "assert f(1) == 1", [[3]]), "atol": 1e-2}, "0.33", True),
        ({**_mbpp("f", "1 / x", "assert f(1) == 1", [[3]]), "comparator": "float:1e-9"}, "0.33", False),
    ],
)
def test_oracles(row: dict[str, Any], answer: str, passes: bool, sandbox: Sandbox) -> None:
    code = f"import re\ndef {row['entry_point']}(x):\n    return {answer}\n"
    assert sandbox.run(program(row, code)).passed is passes


@pytest.mark.parametrize(
    ("assertion", "given", "restored"),
    [
        ("f((1, 2))", [[3]], [(3,)]),
        ("f([1, 2])", [[3]], [[3]]),
        ("f([(1, 2)])", [[[3], []]], [[(3,), ()]]),
        ("f((1, (2, 3)))", [[4, [5, [6, [7]]]]], [(4, (5, (6, (7,))))]),
        ("f({1, 2})", [[3, 3]], [{3}]),
        ("f([{1}, {}])", [[[3], []]], [[{3}, {}]]),
        ("f({'a': (1, 2)})", [{"b": [3]}], [{"b": (3,)}]),
        ("f({1: 'a'})", [{"2": "b"}], [{2: "b"}]),
        ("f(2, 1j)", ["0.5", "-2j"], [0.5, complex("-2j")]),
        ("f('a')", ["1"], ["1"]),
        ("f(1 + 1, (2,))", [3, [4]], [3, (4,)]),
        ("f((1,)) == 1 and f([1])", [[3]], [[3]]),
        ("f((1,))", [[3], [4]], [(3,), [4]]),
    ],
)
def test_inputs_get_their_types_back(assertion: str, given: list[Any], restored: list[Any]) -> None:
    calls = [node for node in ast.walk(ast.parse(assertion)) if isinstance(node, ast.Call)]
    shapes = [*shapes_of([call.args for call in calls]), None]
    result = [restore(value, shape) for value, shape in zip(given, shapes, strict=False)]
    assert repr(result) == repr(restored)  # 0.5 == Fraction(1, 2), (1,) != [1]: types and values


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**HUMAN, "base_input": [1]}, "'base_input' must be a list of argument lists"),
        ({**HUMAN, "atol": "small"}, "'atol' must be a number"),
        ({**HUMAN, "canonical_solution": "    return ("}, "'canonical_solution' is not Python"),
        ({**MBPP, "assertion": "assert"}, "'assertion' is not Python"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        program(row, "")


CLOSE = (
    "import numpy as np\nfrom math import inf\n\n\ndef is_floats(x) -> bool:\n    if isinstance(x, np.ndarray):\n"
    "        return x.dtype == np.float64 or x.dtype == np.float32\n    return isinstance(x, float)\n\n\n"
    "def assertion(out, exp, atol):\n    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n"
    "    if out != exp and atol != 0:\n        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n"
    "    else:\n        assert out == exp, f'out: {out}, exp: {exp}'\n\n\n"
)


@pytest.mark.parametrize(("answer", "passes"), [("x / 3", True), ("x / 3 + 1e-8", True), ("x / 3 + 1e-3", False)])
def test_rows_of_the_hub(answer: str, passes: bool, sandbox: Sandbox) -> None:
    """There, both have a whole program as their test, which imports numpy; none is beside a test."""
    values = "inputs = [[3], [-1]]\nresults = [1.0, -0.3333333333333333]\n"
    loop = "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion({}(*inp), exp, 0)\n"
    check = "def check(candidate):\n" + "".join(
        f"    {line}\n" for line in (values + loop.format("candidate")).splitlines()
    )
    human = {**HUMAN, "prompt": "def third(x):\n", "entry_point": "third", "test": CLOSE + check}
    for key in ("base_input", "plus_input"):
        del human[key]
    mbpp = {
        "task_id": 1,
        "prompt": "Write third.",
        "code": "def third(x):\n    return x / 3\n",
        "test_imports": [],
        "test_list": ["assert third(3) == 1.0"],
        "test": CLOSE + values + loop.format("third"),
    }
    assert sandbox.run(program(human, f"    return {answer}\n")).passed is passes
    assert sandbox.run(program(mbpp, f"def third(x):\n    return {answer}\n")).passed is passes


def test_more_of_numpy_than_there_is_is_named() -> None:
    row = {**HUMAN, "test": "import numpy as np\ndef check(f):\n    assert (np.array(f(1)) == np.zeros(2)).all()\n"}
    del row["base_input"]
    with pytest.raises(ValueError, match="its test uses array, zeros of numpy, which is not beside a test"):
        program(row, "")
