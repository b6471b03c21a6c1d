"""Reads and rewrites the trusted tests of benchmarks: which names they ask for, and how they compare.

Works on their text, so that line numbers stay those of the published test.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Collection, Iterator, Sequence

BUILTINS = frozenset(dir(builtins))
EQUAL = "_tamis_equal"


def definitions(module: ast.Module) -> dict[str, ast.stmt]:
    """Functions and classes at the top level, by name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found: dict[str, ast.stmt] = {node.name: node for node in module.body if isinstance(node, kinds)}
    for node in module.body:
        if isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
    return found


def used_names(module: ast.Module) -> list[str]:
    """All names that are read, in the order of the text, each once."""
    names = [node for node in ast.walk(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    names.sort(key=lambda node: (node.lineno, node.col_offset))
    return list(dict.fromkeys(node.id for node in names))


def entry_points(tests: ast.Module) -> list[str]:
    """The names that a test expects of the candidate, where no reference solution tells: those it does not define.

    A builtin is one of them only if the test calls nothing else: an entry point may well be called ``sum``.
    """
    bound = _bound(tests)
    free = [name for name in used_names(tests) if name not in bound]
    wanted = [name for name in free if name not in BUILTINS and name not in sys.stdlib_module_names]
    if wanted:
        return wanted
    innermost = [call.func.id for call in _calls(tests) if isinstance(call.func, ast.Name) and not _has_calls(call)]
    return list(dict.fromkeys(innermost))


def missing_modules(tests: ast.Module) -> list[str]:
    """Modules of the standard library that a test uses and does not import: published ones count on the reference."""
    bound = _bound(tests)
    bases = [node.value for node in ast.walk(tests) if isinstance(node, ast.Attribute)]
    names = [base.id for base in bases if isinstance(base, ast.Name) and base.id not in bound]
    return sorted({name for name in names if name in sys.stdlib_module_names})


def asked_for_truth_only(tests: ast.Module, name: str) -> bool:
    """Whether every use of the function is ``assert f(...)`` or ``assert not f(...)``."""
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tests))
    bare = 0
    for node in ast.walk(tests):
        if isinstance(node, ast.Assert):
            test = node.test.operand if isinstance(node.test, ast.UnaryOp) else node.test
            bare += isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == name
    return 0 < bare == uses


def arguments_of(tests: ast.Module, name: str) -> list[list[ast.expr]]:
    """The positional arguments of each call of the function, in the order of the text."""
    calls = [call for call in _calls(tests) if isinstance(call.func, ast.Name) and call.func.id == name]
    return [call.args for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset))]


def with_comparator(code: str, tests: ast.Module, names: Collection[str]) -> tuple[str, int]:
    """Puts ``_tamis_equal(actual, expected)`` in place of each ``actual == expected`` that an assert makes.

    Args:
        code: The test.
        tests: Its syntax tree.
        names: What stands for the candidate; a comparison in which none of them is called stays as it is.

    Returns:
        The new text, with every line where it was, and the number of comparisons replaced.
    """
    asserts = [node.test for node in ast.walk(tests) if isinstance(node, ast.Assert)]
    comparisons = [found for test in asserts for found in _equalities(test)]
    rows = [line.encode() for line in code.split("\n")]  # columns count bytes
    count = 0
    for node in sorted(comparisons, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        sides: list[ast.expr] = [node.left, node.comparators[0]]
        if not _mentions(sides[0], names):
            sides.reverse()
        if _mentions(sides[0], names):
            actual, expected = (ast.get_source_segment(code, side) for side in sides)
            _replace(rows, node, f"{EQUAL}({actual}, {expected})")
            count += 1
    return "\n".join(row.decode() for row in rows), count


def _equalities(test: ast.expr) -> Iterator[ast.Compare]:
    if isinstance(test, ast.Compare):
        if len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            yield test
    elif isinstance(test, ast.BoolOp):
        for part in test.values:
            yield from _equalities(part)
    elif isinstance(test, ast.UnaryOp):
        yield from _equalities(test.operand)


def _replace(rows: list[bytes], node: ast.expr, text: str) -> None:
    """Replaces a node's text; lines that it spanned stay, empty, so that those after it keep their numbers."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    head, tail = rows[first][: node.col_offset], rows[last][node.end_col_offset :]
    new = (head + text.encode() + tail).split(b"\n")
    rows[first : last + 1] = new + [b""] * (last + 1 - first - len(new))


def _mentions(node: ast.expr, names: Collection[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def _calls(tests: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tests) if isinstance(node, ast.Call)]


def _has_calls(call: ast.Call) -> bool:
    parts: Sequence[ast.AST] = [*call.args, *call.keywords]
    return any(_calls(part) for part in parts)


def _bound(tests: ast.Module) -> set[str]:
    bound: set[str] = set()
    for node in ast.walk(tests):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    return bound
