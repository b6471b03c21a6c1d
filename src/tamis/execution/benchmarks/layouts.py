"""Which benchmark a row is of, and from that its prompt and its program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..extraction import clean
from ..programs import Program
from .cases import from_cases
from .humaneval import humaneval
from .leetcode import leetcode
from .mbpp import mbpp
from .plus import humaneval_plus, mbpp_plus
from .prompts import CONTINUED, PromptStyle, build_prompt, resolved_style, stop_strings
from .rows import Row

_BUILDERS: dict[str, Callable[[Row, str], Program]] = {
    "humaneval": humaneval,
    "humaneval_plus": humaneval_plus,
    "mbpp": mbpp,
    "mbpp_plus": mbpp_plus,
    "leetcode": leetcode,
    "cases": from_cases,
}


def benchmark_of(row: Row) -> str:
    """The name of the layout that a row has.

    Raises:
        ValueError: naming file and line, if it has none.
    """
    keys = row.keys()
    if {"prompt", "entry_point", "cases"} <= keys:
        return "cases"
    if {"prompt", "entry_point", "canonical_solution", "base_input", "plus_input"} <= keys:
        return "mbpp_plus" if "assertion" in row else "humaneval_plus"
    if {"prompt", "entry_point", "test"} <= keys:
        return "humaneval"
    if "prompt" in row and isinstance(row.get("test"), str) and "Solution(" in row["test"]:
        return "leetcode"
    if ("text" in row or "prompt" in row) and isinstance(row.get("test_list", row.get("test")), list):
        return "mbpp"
    raise ValueError(
        f"{row.get('_source', 'a row')}: neither a HumanEval row (prompt, entry_point, test) nor an MBPP row (text or "
        "prompt, and test_list), nor a HumanEval+ or MBPP+ row (prompt, entry_point, canonical_solution, base_input, "
        "plus_input), nor a LeetCode row (prompt, and a test of Solution), nor one of cases (prompt, entry_point, "
        f"cases); it has {sorted(set(row) - {'_source'})}"
    )


def task_prompt(row: Row, prompt_style: PromptStyle = "auto", shots: Sequence[Row] = ()) -> dict[str, Any]:
    """What a model is asked: ``prompt``, ``benchmark``, ``prompt_style`` (never auto) and the list ``stop``.

    Args:
        row: A row of any layout.
        prompt_style: How to ask.
        shots: MBPP rows to show as examples.

    Raises:
        ValueError: The row is of no layout, or the style is not one of its benchmark.
    """
    benchmark = benchmark_of(row)
    style = resolved_style(row, benchmark, prompt_style)
    prompt = build_prompt(row, benchmark, style, shots)
    return {"prompt": prompt, "benchmark": benchmark, "prompt_style": style, "stop": stop_strings(benchmark, style)}


def program(task: Row, completion: str, prompt_style: PromptStyle = "auto") -> Program:
    """The program that judges an answer to a task of any layout.

    Args:
        task: The row.
        completion: The model's text.
        prompt_style: How it was asked. A continuation (of ``completion`` and ``stripped``) ends where the next
            statement at the margin begins, whether or not its generation stopped there.

    Raises:
        ValueError: The row is of no layout, or the style is not one of its benchmark.
    """
    benchmark = benchmark_of(task)
    style = resolved_style(task, benchmark, prompt_style)
    if style in CONTINUED and "```" not in completion:
        completion = _stopped(completion, stop_strings(benchmark, style))
    return _BUILDERS[benchmark](task, completion)


def _stopped(completion: str, stops: Sequence[str]) -> str:
    """A continuation up to the first stop string. One that starts at the margin is no body, and stays whole."""
    answer = clean(completion)
    if answer.lstrip("\n")[:1] not in (" ", "\t"):
        return completion
    ends = [place for place in (answer.find(stop) for stop in stops) if place >= 0]
    return answer[: min(ends)] if ends else completion
