"""Turns rows of the published benchmarks, and a model's answers to them, into programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .extraction import extract_code
from .programs import Program


def humaneval(problem: Mapping[str, Any], completion: str) -> Program:
    """A HumanEval row and a continuation of its prompt.

    Args:
        problem: A row of HumanEval's JSON lines: ``task_id``, ``prompt``, ``entry_point``, ``test``.
        completion: The text that follows the prompt: a function body.

    Raises:
        ValueError: The row lacks a key.
    """
    prompt, entry_point, test = (_text(problem, key) for key in ("prompt", "entry_point", "test"))
    return Program(prompt + completion, f"{test}\ncheck({entry_point})")


def mbpp(problem: Mapping[str, Any], completion: str) -> Program:
    """An MBPP row and an answer to it.

    Takes the full set (``test_list``, ``test_setup_code``), the sanitised one (``test_list``, ``test_imports``) and
    DeepSeek's copy of the test split (the asserts in ``test``). As is usual, ``challenge_test_list`` is not run.

    Args:
        problem: The row.
        completion: The model's answer: code, or text with code in it (see ``extract_code``).

    Raises:
        ValueError: The row lacks a key, or its asserts are not a list of strings.
    """
    asserts = _lines(problem, "test_list" if "test_list" in problem else "test")
    setup = [_text(problem, "test_setup_code")] if "test_setup_code" in problem else []
    imports = _lines(problem, "test_imports") if "test_imports" in problem else []
    return Program(extract_code(completion), "\n".join([*imports, *setup, *asserts]))


def _value(problem: Mapping[str, Any], key: str) -> object:
    if key not in problem:
        raise ValueError(
            f"Task {problem.get('task_id', '(without task_id)')!r} has no {key!r}; its keys are {sorted(problem)}. "
            "Is it a row of another benchmark?"
        )
    return problem[key]


def _text(problem: Mapping[str, Any], key: str) -> str:
    value = _value(problem, key)
    if not isinstance(value, str):
        raise ValueError(f"Task {problem.get('task_id')!r}: {key!r} must be a string, not {type(value).__name__}.")
    return value


def _lines(problem: Mapping[str, Any], key: str) -> list[str]:
    value = _value(problem, key)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"Task {problem.get('task_id')!r}: {key!r} must be a list of strings, not {value!r:.80}.")
    return [str(line) for line in value]
