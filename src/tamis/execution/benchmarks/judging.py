"""How answers are compared. This file's TEXT is run inside the tester's process, before a test that needs it.

So it imports nothing but the standard library, and nothing of this package.
"""

from __future__ import annotations

import cmath
import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Compare = Callable[[Any, Any], bool]
SHOWN = 60


def exact(actual: object, expected: object) -> bool:
    """Equal, as Python compares."""
    return bool(actual == expected)


def same_json(actual: object, expected: object) -> bool:
    """Equal, where a tuple is as good as the list that JSON has for it."""
    if isinstance(expected, list):
        return (
            isinstance(actual, (list, tuple)) and len(actual) == len(expected) and all(map(same_json, actual, expected))
        )
    if isinstance(expected, dict) and isinstance(actual, dict):
        return actual.keys() == expected.keys() and all(same_json(actual[key], expected[key]) for key in expected)
    return exact(actual, expected)


def unordered(actual: object, expected: object) -> bool:
    """The same elements, each as often, in any order; lists, tuples and sets are one. What they hold is ordered."""
    groups = (list, tuple, set, frozenset)
    if not (isinstance(actual, groups) and isinstance(expected, groups)):
        return exact(actual, expected)
    return Counter(map(_hashable, actual)) == Counter(map(_hashable, expected))


def close(tolerance: float) -> Compare:
    """Equal, where numbers may differ by the tolerance, absolutely or relatively; at any depth. NaN equals NaN."""

    def compare(actual: Any, expected: Any) -> bool:  # noqa: ANN401
        if _is_number(actual) and _is_number(expected):
            same = cmath.isclose(actual, expected, rel_tol=tolerance, abs_tol=tolerance)
            return same or (actual != actual and expected != expected)
        if isinstance(expected, (list, tuple)) and type(actual) is type(expected):
            return len(actual) == len(expected) and all(map(compare, actual, expected))
        if isinstance(expected, dict) and isinstance(actual, dict):
            return actual.keys() == expected.keys() and all(compare(actual[key], expected[key]) for key in expected)
        return exact(actual, expected)

    return compare


def as_published(tolerance: float) -> Compare:
    """As EvalPlus documents: equal; or for floats, of the same type and within 1e-7 relatively plus the tolerance.

    Args:
        tolerance: The row's ``atol``; where it is 0, floats may still differ by 1e-6.
    """

    def compare(actual: Any, expected: Any) -> bool:  # noqa: ANN401
        allowed = tolerance or (1e-6 if _are_floats(expected) else 0.0)
        same_type = type(actual) is type(expected)
        return exact(actual, expected) or (allowed > 0 and same_type and _within(actual, expected, allowed, 1e-7))

    return compare


def same_set(actual: Any, expected: Any) -> bool:  # noqa: ANN401
    """Equal as sets."""
    return set(actual) == set(expected)


def same_truth(actual: object, expected: object) -> bool:
    """Both count as true, or both as false."""
    return bool(actual) == bool(expected)


class Testing:
    """What EvalPlus's tests use of ``numpy.testing``."""

    @staticmethod
    def assert_allclose(actual: object, expected: object, rtol: float = 1e-7, atol: float = 0.0) -> None:
        """Raises AssertionError unless the values are close; NaN is close to NaN."""
        assert _within(actual, expected, atol, rtol), f"{actual!r:.{SHOWN}} instead of {expected!r:.{SHOWN}}"


class Numpy:
    """What EvalPlus's tests use of numpy, for answers that are plain data; numpy itself is not beside a test."""

    testing = Testing
    float32 = float64 = None

    class ndarray:
        """No answer is one: arrays are no data."""

    @staticmethod
    def allclose(actual: object, expected: object, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
        """Whether two numbers, or lists of them, differ by no more than the tolerances."""
        return _within(actual, expected, atol, rtol)


def judge(function: Callable[..., Any], cases: Sequence[tuple[Any, Any]], compare: Compare) -> None:
    """Calls the function with each case's arguments, a list or a dict of them, and compares with what is expected.

    Raises:
        AssertionError: An answer is wrong.
    """
    for number, (arguments, expected) in enumerate(cases, start=1):
        actual = function(**arguments) if isinstance(arguments, dict) else function(*arguments)
        if not compare(actual, expected):
            given = f"{arguments!r:.{SHOWN}}"
            raise AssertionError(f"case {number}, {given}: {actual!r:.{SHOWN}} instead of {expected!r:.{SHOWN}}")


def expected_by(reference: Callable[..., Any], inputs: Sequence[Sequence[Any]]) -> list[tuple[Any, Any]]:
    """The cases that a reference solution makes of inputs; it gets copies, and may change them."""
    return [(arguments, reference(*copy.deepcopy(arguments))) for arguments in inputs]


def load(code: str, name: str) -> Any:  # noqa: ANN401
    """What trusted code, run in a namespace of its own, defines under the name."""
    namespace: dict[str, Any] = {"__name__": "reference"}
    exec(code, namespace)
    return namespace[name]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


def _are_floats(value: object) -> bool:
    return isinstance(value, float) or (
        isinstance(value, (list, tuple)) and all(isinstance(item, float) for item in value)
    )


def _within(actual: Any, expected: Any, absolute: float, relative: float) -> bool:  # noqa: ANN401
    if isinstance(expected, (list, tuple)):
        if not isinstance(actual, (list, tuple)) or len(actual) != len(expected):
            return False
        return all(_within(one, other, absolute, relative) for one, other in zip(actual, expected, strict=True))
    if not isinstance(actual, (int, float, complex)) or not isinstance(expected, (int, float, complex)):
        return exact(actual, expected)
    if expected != expected:  # NaN
        return actual != actual
    return exact(actual, expected) or abs(actual - expected) <= absolute + relative * abs(expected)


def _hashable(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(_hashable, value))
    if isinstance(value, (set, frozenset)):
        return "set", frozenset(map(_hashable, value))
    if isinstance(value, Mapping):
        return "dict", frozenset((_hashable(key), _hashable(item)) for key, item in value.items())
    return value
