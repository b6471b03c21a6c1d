"""Edits of syntax trees that turn right code into code that is wrong in a human way.

An edit gives the wrong node for a node, or None where it cannot be made. It never changes the node it is given.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

Edit = Callable[[ast.AST], ast.AST | None]


# ---- makers of edits -------------------------------------------------------------------------------------------------


def comparison(right: type[ast.cmpop], wrong: type[ast.cmpop]) -> Edit:
    """Compares with another operator."""

    def edit(node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], right):
            return ast.Compare(node.left, [wrong()], node.comparators)
        return None

    return edit


def operator(right: type[ast.operator], wrong: type[ast.operator]) -> Edit:
    """Calculates with another operator."""

    def edit(node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.BinOp) and isinstance(node.op, right):
            return ast.BinOp(node.left, wrong(), node.right)
        return None

    return edit


def logic(right: type[ast.boolop], wrong: type[ast.boolop]) -> Edit:
    """Takes ``and`` for ``or``, or the reverse."""

    def edit(node: ast.AST) -> ast.AST | None:
        return ast.BoolOp(wrong(), node.values) if isinstance(node, ast.BoolOp) and isinstance(node.op, right) else None

    return edit


def without_sign(kind: type[ast.unaryop]) -> Edit:
    """Forgets a minus or a ``not``."""

    def edit(node: ast.AST) -> ast.AST | None:
        return node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, kind) else None

    return edit


def _called(node: ast.AST) -> str:
    """The name of what is called: ``sum`` or ``upper``; empty for other nodes."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def other_call(right: str, wrong: str) -> Edit:
    """Calls another function or method; keywords that only the right one knows are left out."""

    def edit(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Call) or _called(node) != right:
            return None
        function = ast.Attribute(node.func.value, wrong) if isinstance(node.func, ast.Attribute) else ast.Name(wrong)
        keywords = node.keywords if {right, wrong} == {"min", "max"} else []
        return ast.Call(function, node.args, keywords)

    return edit


def without_call(name: str) -> Edit:
    """``name(value)`` becomes ``value``, and ``value.name()`` too."""

    def edit(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Call) or _called(node) != name:
            return None
        return node.func.value if isinstance(node.func, ast.Attribute) else node.args[0]

    return edit


def without_keyword(name: str) -> Edit:
    """Forgets a keyword argument."""

    def edit(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Call) or name not in [keyword.arg for keyword in node.keywords]:
            return None
        return ast.Call(node.func, node.args, [keyword for keyword in node.keywords if keyword.arg != name])

    return edit


def _slice(node: ast.AST) -> tuple[ast.expr, ast.Slice] | None:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return node.value, node.slice
    return None


def _number(node: ast.AST | None) -> int | None:
    """The value of an integer constant, with or without a minus sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _number(node.operand)
        return None if value is None else -value
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _literal(value: int) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def shifted_bound(bound: str, by: int) -> Edit:
    """Moves the ``lower`` or ``upper`` bound of a slice, away from zero for a positive ``by``."""

    def edit(node: ast.AST) -> ast.AST | None:
        found = _slice(node)
        value = _number(getattr(found[1], bound)) if found else None
        if found is None or value is None or abs(value) + by < 1:
            return None
        parts = {"lower": found[1].lower, "upper": found[1].upper}
        parts[bound] = _literal(value + by if value > 0 else value - by)
        return ast.Subscript(found[0], ast.Slice(parts["lower"], parts["upper"], found[1].step))

    return edit


def shifted_constant(by: int) -> Edit:
    """Is off by a little in a constant of 2 or more."""

    def edit(node: ast.AST) -> ast.AST | None:
        value = _number(node) if isinstance(node, ast.Constant) else None
        return None if value is None or value < 2 else ast.Constant(value + by)

    return edit


# ---- edits with a rule of their own ----------------------------------------------------------------------------------


def wrong_parity(node: ast.AST) -> ast.AST | None:
    """Takes even for odd."""
    if isinstance(node, ast.Compare) and isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Mod):
        value = _number(node.comparators[0])
        return ast.Compare(node.left, node.ops, [ast.Constant(1 - value)]) if value in (0, 1) else None
    return None


def strict_zero(node: ast.AST) -> ast.AST | None:
    """Takes 1 for the first positive number's neighbour: ``x > 0`` becomes ``x > 1``."""
    ordered = isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Gt | ast.Lt | ast.GtE | ast.LtE)
    if isinstance(node, ast.Compare) and ordered and _number(node.comparators[0]) == 0:
        return ast.Compare(node.left, node.ops, [ast.Constant(1)])
    return None


def swapped_operands(node: ast.AST) -> ast.AST | None:
    """``a - b`` becomes ``b - a``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.FloorDiv | ast.Mod):
        return ast.BinOp(node.right, node.op, node.left)
    return None


def missing_reverse(node: ast.AST) -> ast.AST | None:
    """Forgets ``[::-1]``."""
    found = _slice(node)
    return found[0] if found and _number(found[1].step) == -1 else None


def missing_slice(node: ast.AST) -> ast.AST | None:
    """Forgets a slice such as ``[2:]``."""
    found = _slice(node)
    return found[0] if found and found[1].step is None else None


def missing_step(node: ast.AST) -> ast.AST | None:
    """``[1::2]`` becomes ``[1:]``."""
    found = _slice(node)
    if found is None or _number(found[1].step) != 2:
        return None
    return ast.Subscript(found[0], ast.Slice(found[1].lower, found[1].upper)) if found[1].lower else found[0]


def wrong_phase(node: ast.AST) -> ast.AST | None:
    """``[::2]`` and ``[1::2]`` mistaken for each other."""
    found = _slice(node)
    if found is None or _number(found[1].step) != 2:
        return None
    return ast.Subscript(found[0], ast.Slice(None if found[1].lower else ast.Constant(1), None, found[1].step))


def wrong_end(node: ast.AST) -> ast.AST | None:
    """``[:2]`` and ``[2:]``, or ``[-2:]`` and ``[:-2]``, mistaken for each other."""
    found = _slice(node)
    if found is None or found[1].step is not None:
        return None
    return ast.Subscript(found[0], ast.Slice(found[1].upper, found[1].lower))


def missing_filter(node: ast.AST) -> ast.AST | None:
    """Forgets the ``if`` of a comprehension."""
    if not isinstance(node, ast.ListComp) or not node.generators[0].ifs:
        return None
    loop = node.generators[0]
    return ast.ListComp(node.elt, [ast.comprehension(loop.target, loop.iter, [], 0)])


def missing_map(node: ast.AST) -> ast.AST | None:
    """Forgets to change the elements of a comprehension."""
    if not isinstance(node, ast.ListComp) or isinstance(node.elt, ast.Name):
        return None
    return ast.ListComp(node.generators[0].target, node.generators)


def none_default(node: ast.AST) -> ast.AST | None:
    """Gives None instead of 0 or an empty string."""
    return (
        ast.keyword("default", ast.Constant(None)) if isinstance(node, ast.keyword) and node.arg == "default" else None
    )


def missing_separator(node: ast.AST) -> ast.AST | None:
    """Joins with nothing between."""
    return ast.Constant("") if isinstance(node, ast.Constant) and node.value in ("-", " ") else None


def wrong_separator(node: ast.AST) -> ast.AST | None:
    """Takes spaces for dashes, or the reverse."""
    return (
        ast.Constant({"-": " ", " ": "-"}[node.value])
        if isinstance(node, ast.Constant) and node.value in ("-", " ")
        else None
    )


def missing_join(node: ast.AST) -> ast.AST | None:
    """Gives the list itself."""
    return node.args[0] if isinstance(node, ast.Call) and _called(node) == "join" else None


def swapped_branches(node: ast.AST) -> ast.AST | None:
    """Gives each result in the other's case."""
    if not isinstance(node, ast.FunctionDef) or len(node.body) != 2:
        return None
    choice, otherwise = node.body
    if not isinstance(choice, ast.If):
        return None
    return _function([ast.If(choice.test, [otherwise], []), choice.body[0]])


def missing_return(node: ast.AST) -> ast.AST | None:
    """Computes the result and forgets to return it."""
    return ast.Expr(node.value) if isinstance(node, ast.Return) and node.value is not None else None


def missing_else(node: ast.AST) -> ast.AST | None:
    """Forgets the second result."""
    return _function(node.body[:1]) if isinstance(node, ast.FunctionDef) and len(node.body) == 2 else None


def _function(body: list[ast.stmt]) -> ast.FunctionDef:
    empty = ast.parse("def f(): pass").body[0]
    if not isinstance(empty, ast.FunctionDef):
        raise TypeError("ast.parse no longer gives a FunctionDef for a def statement")
    empty.body = body
    return empty


def other_name(node: ast.AST) -> ast.AST | None:
    """Takes one argument for the other."""
    names = {"a": "b", "b": "a"}
    return ast.Name(names[node.id]) if isinstance(node, ast.Name) and node.id in names else None
