"""Plausible human bugs, as edits of the syntax tree.

A demonstration with a bug is what a hurried person might have written. Some slips are habits: a construct that is easy
to get wrong (``>=``, a default for the empty list, a slice's end) is wrong more often than not, and that is what
policy-gradient training can unlearn later.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable
from dataclasses import dataclass

from . import edits
from .generator import Task
from .grammar import indent

HABIT, USUAL, RARE = 16.0, 1.0, 0.4
TYPICAL_PRONENESS = 18.0  # the sum of weights at which the chance of a bug is just the bug rate


@dataclass(frozen=True)
class Bug:
    """One kind of bug.

    Attributes:
        name: Its name.
        edit: Gives the wrong node for a node, or None where this bug cannot be made.
        weight: How often people make it.
    """

    name: str
    edit: edits.Edit
    weight: float = USUAL

    def sites(self, nodes: Iterable[ast.AST]) -> list[tuple[ast.AST, ast.AST]]:
        """Those of the nodes where the bug can be made, each with its replacement."""
        pairs = ((node, self.edit(node)) for node in nodes)
        return [(node, wrong) for node, wrong in pairs if wrong is not None]


def demonstrate(task: Task, rng: random.Random, bug_rate: float) -> str:
    """A body for the task as a person might write it.

    Args:
        task: The task.
        rng: Source of chance.
        bug_rate: Share of demonstrations with a bug, in 0..1, on average over tasks: bodies with error-prone
            constructs get more of them.

    Returns:
        The body, indented by four spaces. It always parses.

    Raises:
        ValueError: The rate is not in 0..1.
    """
    if not 0 <= bug_rate <= 1:
        raise ValueError(f"bug_rate is {bug_rate}; it is a share, from 0 to 1.")
    nodes = list(ast.walk(_parse(task.canonical_solution)))
    options = [bug for bug in BUGS if bug.sites(nodes)]
    proneness = sum(bug.weight for bug in options)
    chance = 1 - (1 - bug_rate) ** (proneness / TYPICAL_PRONENESS)
    if not options or rng.random() >= chance:
        return task.canonical_solution
    bug = rng.choices(options, [option.weight for option in options])[0]
    return corrupt(task.canonical_solution, bug, rng) or task.canonical_solution  # the bug has a site: never the latter


def corrupt(body: str, bug: Bug, rng: random.Random) -> str | None:
    """The body with one bug of this kind, at a place drawn at random; None where it cannot be made."""
    function = _parse(body)
    sites = bug.sites(ast.walk(function))
    if not sites:
        return None
    node, wrong = rng.choice(sites)
    return indent(_Replacement(node, wrong).visit(function))


def _parse(body: str) -> ast.AST:
    return ast.parse(f"def f():\n{body}").body[0]


class _Replacement(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, node: ast.AST, wrong: ast.AST) -> None:
        self._node, self._wrong = node, wrong

    def visit(self, node: ast.AST) -> ast.AST:
        return self._wrong if node is self._node else self.generic_visit(node)


BUGS: tuple[Bug, ...] = (
    Bug("> for >=", edits.comparison(ast.GtE, ast.Gt), HABIT),
    Bug("< for <=", edits.comparison(ast.LtE, ast.Lt), HABIT),
    Bug(">= for >", edits.comparison(ast.Gt, ast.GtE)),
    Bug("<= for <", edits.comparison(ast.Lt, ast.LtE)),
    Bug("< for >", edits.comparison(ast.Gt, ast.Lt)),
    Bug("> for <", edits.comparison(ast.Lt, ast.Gt)),
    Bug("!= for ==", edits.comparison(ast.Eq, ast.NotEq), RARE),
    Bug("== for !=", edits.comparison(ast.NotEq, ast.Eq)),
    Bug("in for not in", edits.comparison(ast.NotIn, ast.In)),
    Bug("not in for in", edits.comparison(ast.In, ast.NotIn), RARE),
    Bug("missing not", edits.without_sign(ast.Not)),
    Bug("missing minus", edits.without_sign(ast.USub)),
    Bug("or for and", edits.logic(ast.And, ast.Or), HABIT),
    Bug("and for or", edits.logic(ast.Or, ast.And), HABIT),
    Bug("wrong parity", edits.wrong_parity),
    Bug("one for zero", edits.strict_zero),
    Bug("constant + 1", edits.shifted_constant(1), RARE),
    Bug("constant - 1", edits.shifted_constant(-1), RARE),
    Bug("- for +", edits.operator(ast.Add, ast.Sub), RARE),
    Bug("+ for -", edits.operator(ast.Sub, ast.Add), RARE),
    Bug("+ for *", edits.operator(ast.Mult, ast.Add)),
    Bug("* for **", edits.operator(ast.Pow, ast.Mult), HABIT),
    Bug("/ for //", edits.operator(ast.FloorDiv, ast.Div), HABIT),
    Bug("// for %", edits.operator(ast.Mod, ast.FloorDiv), RARE),
    Bug("swapped operands", edits.swapped_operands),
    Bug("a for b", edits.other_name, RARE),
    Bug("missing abs", edits.without_call("abs"), HABIT),
    Bug("missing str", edits.without_call("str"), HABIT),
    Bug("missing set", edits.without_call("set"), HABIT),
    Bug("missing sort", edits.without_call("sorted")),
    Bug("missing join", edits.missing_join),
    Bug("missing case", edits.without_call("upper")),
    Bug("missing reverse", edits.missing_reverse, HABIT),
    Bug("missing reverse=True", edits.without_keyword("reverse"), HABIT),
    Bug("missing default", edits.without_keyword("default"), HABIT),
    Bug("None default", edits.none_default),
    Bug("missing key", edits.without_keyword("key"), HABIT),
    Bug("sum for len", edits.other_call("len", "sum"), RARE),
    Bug("len for sum", edits.other_call("sum", "len")),
    Bug("max for min", edits.other_call("min", "max")),
    Bug("min for max", edits.other_call("max", "min")),
    Bug("lower for upper", edits.other_call("upper", "lower")),
    Bug("upper for lower", edits.other_call("lower", "upper")),
    Bug("upper for capitalize", edits.other_call("capitalize", "upper"), HABIT),
    Bug("islower for isupper", edits.other_call("isupper", "islower")),
    Bug("isupper for islower", edits.other_call("islower", "isupper")),
    Bug("isalnum for isdigit", edits.other_call("isdigit", "isalnum")),
    Bug("isalnum for isalpha", edits.other_call("isalpha", "isalnum"), HABIT),
    Bug("endswith for startswith", edits.other_call("startswith", "endswith")),
    Bug("startswith for endswith", edits.other_call("endswith", "startswith")),
    Bug("missing filter", edits.missing_filter),
    Bug("missing map", edits.missing_map),
    Bug("missing slice", edits.missing_slice, RARE),
    Bug("missing step", edits.missing_step),
    Bug("wrong phase", edits.wrong_phase, HABIT),
    Bug("wrong end", edits.wrong_end),
    Bug("slice starts late", edits.shifted_bound("lower", 1)),
    Bug("slice starts early", edits.shifted_bound("lower", -1)),
    Bug("slice ends late", edits.shifted_bound("upper", 1)),
    Bug("slice ends early", edits.shifted_bound("upper", -1), HABIT),
    Bug("missing separator", edits.missing_separator),
    Bug("wrong separator", edits.wrong_separator),
    Bug("swapped branches", edits.swapped_branches),
    Bug("missing else", edits.missing_else, RARE),
    Bug("missing return", edits.missing_return, RARE),
)
