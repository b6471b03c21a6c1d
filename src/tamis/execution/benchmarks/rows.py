"""Reading the rows of benchmarks, with errors that name the task and its place."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]


def called(row: Row) -> str:
    """How errors name a task: by its id, and by its file and line where it was read from one."""
    name = f"task {row.get('task_id', '(without task_id)')!r}"
    return f"{row['_source']}: {name}" if "_source" in row else name


def value(row: Row, key: str) -> object:
    """What stands under the key.

    Raises:
        ValueError: Nothing does.
    """
    if key not in row:
        raise ValueError(
            f"{called(row)} has no {key!r}; its keys are {sorted(set(row) - {'_source'})}. "
            "Is it a row of another benchmark?"
        )
    return row[key]


def text(row: Row, key: str) -> str:
    """The string under the key."""
    found = value(row, key)
    if not isinstance(found, str):
        raise ValueError(f"{called(row)}: {key!r} must be a string, not {type(found).__name__}.")
    return found


def name(row: Row, key: str) -> str:
    """The Python name under the key."""
    found = text(row, key)
    if not found.isidentifier():
        raise ValueError(f"{called(row)}: {key!r} must be the name of a function, not {found!r:.80}.")
    return found


def lines(row: Row, key: str) -> list[str]:
    """The list of strings under the key."""
    found = value(row, key)
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise ValueError(f"{called(row)}: {key!r} must be a list of strings, not {found!r:.80}.")
    return [str(line) for line in found]


def tree(row: Row, key: str, code: str) -> ast.Module:
    """The syntax tree of trusted code.

    Raises:
        ValueError: It is not Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # published code has invalid escapes
            return ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"{called(row)}: {key!r} is not Python ({error.msg}, line {error.lineno}).") from error
