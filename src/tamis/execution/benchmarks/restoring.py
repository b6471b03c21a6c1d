"""Gives inputs back the types that JSON lost: tuples, sets, complex numbers, keys that are no strings.

Which argument has which type is read from the literal arguments of published asserts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SEQUENCES = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class Shape:
    """What is known of a value's type.

    Attributes:
        kinds: The types that it was seen to have.
        items: The shape of what it holds.
        keys: The shape of its keys, if it was a dict.
    """

    kinds: frozenset[type]
    items: Shape | None = None
    keys: Shape | None = None


def shapes_of(calls: Sequence[Sequence[ast.expr]]) -> list[Shape]:
    """The shape of each positional argument, from the calls in published asserts."""
    literals = [[_literal(argument) for argument in arguments] for arguments in calls]
    width = max(map(len, literals), default=0)
    return [_shape([row[place] for row in literals if len(row) > place]) for place in range(width)]


def restore(value: Any, shape: Shape | None, nested: Shape | None = None) -> Any:  # noqa: ANN401
    """The value with the types of its shape; what the shape does not tell stays as JSON has it.

    Args:
        value: As read from JSON.
        shape: What is known of it.
        nested: The shape of the containers that it is in, if these are of one kind: it may go deeper than any seen.
    """
    if isinstance(value, list):
        kinds = [kind for kind in SEQUENCES if shape is not None and kind in shape.kinds]
        if not kinds and nested is not None:
            return restore(value, nested, nested)
        items = shape.items if shape else None
        repeats = items is not None and len(kinds) == 1 and kinds[0] in items.kinds
        held = [restore(item, items, shape if repeats else nested) for item in value]
        if not held and shape is not None and kinds == [set] and dict in shape.kinds:
            return {}  # an empty set and an empty dict are written alike
        return kinds[0](held) if len(kinds) == 1 else held
    if shape is None:
        return value
    if isinstance(value, dict):
        return {restore(key, shape.keys): restore(item, shape.items) for key, item in value.items()}
    if isinstance(value, str) and str not in shape.kinds:
        return _number(value, shape.kinds)
    return value


def _literal(node: ast.expr) -> Any:  # noqa: ANN401
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...  # an expression: tells nothing


def _shape(values: Iterable[Any]) -> Shape:
    seen = [value for value in values if value is not ...]
    dicts = [value for value in seen if isinstance(value, dict)]
    held = [item for value in seen if isinstance(value, SEQUENCES) for item in value]
    held += [item for value in dicts for item in value.values()]
    keys = [key for value in dicts for key in value]
    return Shape(frozenset(map(type, seen)), _shape(held) if held else None, _shape(keys) if keys else None)


def _number(text: str, kinds: frozenset[type]) -> Any:  # noqa: ANN401
    """A number that JSON could not hold, or that was a key, from its text."""
    seen: list[type[int] | type[float] | type[complex]] = [kind for kind in (int, float, complex) if kind in kinds]
    for kind in [*seen, float, complex] if seen else []:
        try:
            return kind(text)
        except ValueError:
            continue
    return text
