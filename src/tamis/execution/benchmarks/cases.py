"""Tasks of your own as plain data: a prompt, an entry point, and cases of inputs and outputs.

One JSON object a line::

    {"task_id": "mean", "prompt": "Write mean(xs).", "entry_point": "mean", "comparator": "float:1e-9",
     "cases": [{"input": [[1, 2]], "output": 1.5}, {"input": {"xs": [3]}, "output": 3.0}]}

``input`` is the list of positional arguments, or an object of named ones. ``prompt`` is a function's head, to be
continued as in HumanEval, or a description. JSON has no tuples, so a tuple is as good as a list; where that matters, or
for sets, write asserts instead (``test_list``, as in MBPP).
"""

from __future__ import annotations

from typing import Any

from ..extraction import extract_code, find_code
from ..programs import Program
from .comparators import attribute, comparison, preamble
from .humaneval import continued
from .rows import Row, called, name, text, value


def from_cases(problem: Row, completion: str) -> Program:
    """A row with ``cases`` and an answer to it.

    Args:
        problem: The row: ``prompt``, ``entry_point``, ``cases``. Optionally ``comparator``.
        completion: The model's answer: a continuation of the prompt, if that is a function's head, or code, or text
            with code in it.

    Raises:
        ValueError: The row lacks a key, or one of them is not as it should be.
    """
    prompt, entry_point = text(problem, "prompt"), name(problem, "entry_point")
    if has_head(prompt, entry_point):
        source, extracted = continued(prompt, entry_point, completion)
    else:
        extracted = find_code(completion, (entry_point,)) is not None
        source = extract_code(completion, (entry_point,))
    compare = comparison(problem) or attribute("same_json")
    test = f"{attribute('judge')}({entry_point}, {_cases(problem)!r}, {compare})"
    return Program(
        source, test, f"{preamble()}from math import inf, nan\n", names=(entry_point,), classes=(), extracted=extracted
    )


def has_head(prompt: str, entry_point: str) -> bool:
    """Whether the prompt ends in a function's head, to be continued, rather than describes the task."""
    return f"def {entry_point}(" in prompt and "```" not in prompt


def _cases(problem: Row) -> list[tuple[Any, Any]]:
    cases = value(problem, "cases")
    if not isinstance(cases, list) or not cases:
        raise ValueError(f"{called(problem)}: 'cases' must be a list with at least one case, not {cases!r:.80}.")
    return [_case(problem, number, case) for number, case in enumerate(cases, start=1)]


def _case(problem: Row, number: int, case: Any) -> tuple[Any, Any]:  # noqa: ANN401
    whole = isinstance(case, dict) and {"input", "output"} <= case.keys() and isinstance(case["input"], (list, dict))
    if not whole:
        raise ValueError(
            f"{called(problem)}: case {number} must be an object with 'input', the list (or an object) of arguments, "
            f"and 'output'; it is {case!r:.80}."
        )
    return case["input"], case["output"]
