"""Which comparator a task asks for. The comparisons themselves are in ``judging.py``.

A row's key ``comparator`` holds one of

- ``exact`` (as without the key): equal, as Python compares;
- ``unordered``: the same elements, each as often, in any order;
- ``float`` or ``float:1e-4``: numbers may differ by the tolerance, 1e-6 by default, absolutely or relatively;
- Python source that defines ``compare(actual, expected)`` and returns whether they match. It runs beside the test,
  so it is as trusted as the test.
"""

from __future__ import annotations

import ast
import inspect

from . import judging
from .asserts import EQUAL, with_comparator
from .rows import Row, called, tree

NAMESPACE = "_tamis"
DEFAULT_TOLERANCE = 1e-6


def comparison(row: Row) -> str | None:
    """Python code of the row's comparison, to be evaluated after ``preamble``; None if it is the exact one.

    Raises:
        ValueError: The row's comparator is none.
    """
    asked = row.get("comparator", "exact")
    if not isinstance(asked, str):
        raise ValueError(f"{called(row)}: 'comparator' must be a string, not {type(asked).__name__}.")
    kind, _, tolerance = asked.partition(":")
    if asked == "exact":
        return None
    if asked == "unordered":
        return attribute("unordered")
    if kind == "float":
        return f"{attribute('close')}({_tolerance(row, tolerance)!r})"
    if "compare" in asked and "def " in asked:
        defined = [node.name for node in tree(row, "comparator", asked).body if isinstance(node, ast.FunctionDef)]
        if "compare" in defined:
            return f"{attribute('load')}({asked!r}, 'compare')"
    raise ValueError(
        f"{called(row)}: unknown comparator {asked!r:.80}; choose exact, unordered, float, float:TOLERANCE (as in "
        "float:1e-4), or give Python source that defines compare(actual, expected)."
    )


def attribute(name: str) -> str:
    """Python code for one of the functions in ``judging.py``, after ``preamble``."""
    return f"{NAMESPACE}[{name!r}]"


def preamble() -> str:
    """Trusted code that makes the functions of ``judging.py`` known to a test, beside its own names."""
    return f"{NAMESPACE} = {{'__name__': 'judging'}}\nexec({inspect.getsource(judging)!r}, {NAMESPACE})\n"


def compared(row: Row, test: str, names: tuple[str, ...]) -> tuple[str, str]:
    """What to put before the test, and the test, so that it compares as the row asks.

    Args:
        row: The task.
        test: Its published test.
        names: What stands for the candidate in it.

    Raises:
        ValueError: The comparator is none, or the test has nothing that it could be applied to.
    """
    how = comparison(row)
    if how is None:
        return "", test
    test = test.replace("\r\n", "\n")
    new, count = with_comparator(test, tree(row, "test", test), names)
    if not count:
        raise ValueError(
            f"{called(row)}: the comparator {row['comparator']!r:.80} has no effect, because the test has no assert of "
            f"the form {names[0]}(...) == expected. Leave the comparator out."
        )
    return f"{preamble()}{EQUAL} = {how}\n", new


def without_numpy(row: Row, test: str, module: ast.Module) -> tuple[str, str]:
    """What to put before a test of EvalPlus's, as the hub has them, and the test without its import of numpy.

    Args:
        row: The task.
        test: Its test.
        module: The test's syntax tree.

    Raises:
        ValueError: The test uses more of numpy than such tests do.
    """
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import) and node.names[0].name == "numpy"]
    if not imports:
        return "", test
    alias = imports[0].names[0].asname or "numpy"
    attributes = [node for node in ast.walk(module) if isinstance(node, ast.Attribute)]
    asked = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == alias}
    if not all(hasattr(judging.Numpy, name) for name in asked):
        unknown = sorted(name for name in asked if not hasattr(judging.Numpy, name))
        raise ValueError(
            f"{called(row)}: its test uses {', '.join(unknown)} of numpy, which is not beside a test; write it without."
        )
    rows = test.split("\n")
    for node in imports:
        rows[node.lineno - 1] = rows[node.lineno - 1][: node.col_offset] + "pass"
    return f"{preamble()}{alias} = {attribute('Numpy')}\n", "\n".join(rows)


def _tolerance(row: Row, given: str) -> float:
    try:
        tolerance = float(given) if given else DEFAULT_TOLERANCE
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < float("inf"):
        raise ValueError(
            f"{called(row)}: the tolerance of 'float:{given}' must be a number from 0 up, as in float:1e-4."
        )
    return tolerance
