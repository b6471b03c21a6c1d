"""HumanEval+ and MBPP+ in EvalPlus's own layout: many inputs, whose outputs a reference solution gives."""

from __future__ import annotations

import ast
from typing import Any

from ..extraction import extract_code, find_code
from ..programs import Program
from .asserts import arguments_of, asked_for_truth_only
from .comparators import attribute, comparison, preamble
from .humaneval import continued
from .mbpp import TRUTH, with_truths
from .restoring import restore, shapes_of
from .rows import Row, called, name, text, tree, value

# Tasks that ask for elements in no order, though the reference gives some order (EvalPlus has them as a list, too).
SETS = frozenset(
    (
        "similar_elements",
        "find_char_long",
        "common_in_nested_lists",
        "extract_singly",
        "larg_nnum",
        "intersection_array",
        "find_dissimilar",
        "Diff",
    )
)
# A root is right if it is one, not if it is the reference's: poly is a helper of that task's prompt.
ROOT = ("find_zero", "abs(poly(*arguments, {entry}(*arguments)))", 1e-4)


def humaneval_plus(problem: Row, completion: str) -> Program:
    """A HumanEval+ row (``base_input``, ``plus_input``, ``canonical_solution``, ``atol``) and an answer to it.

    The reference runs beside the test, where the candidate cannot see it, on copies of the inputs.

    Raises:
        ValueError: The row lacks a key, or one of them is not as it should be.
    """
    prompt, entry_point = text(problem, "prompt"), name(problem, "entry_point")
    source, extracted = continued(prompt, entry_point, completion)
    reference = prompt + text(problem, "canonical_solution")
    tree(problem, "canonical_solution", reference)
    inputs = [_listed(problem, key) for key in ("base_input", "plus_input")]
    prelude, test = _judged(problem, reference, [*inputs[0], *inputs[1]], None)
    if entry_point == ROOT[0]:
        prelude += reference  # for its poly; the candidate's own function goes before the reference
        test = f"for arguments in inputs:\n    assert {ROOT[1].format(entry=entry_point)} <= {ROOT[2]}"
    return Program(source, test, prelude, names=(entry_point,), classes=(), extracted=extracted)


def mbpp_plus(problem: Row, completion: str) -> Program:
    """An MBPP+ row (``base_input``, ``plus_input``, ``canonical_solution``, ``assertion``, ``atol``) and an answer.

    JSON lost the types of tuples, sets and the like: they are read from the calls in ``assertion``.

    Raises:
        ValueError: The row lacks a key, or one of them is not as it should be.
    """
    entry_point = name(problem, "entry_point")
    reference = text(problem, "canonical_solution").replace("\r\n", "\n")
    tree(problem, "canonical_solution", reference)
    asserts = tree(problem, "assertion", text(problem, "assertion"))
    shapes = shapes_of(arguments_of(asserts, entry_point))
    rows = [*_listed(problem, "base_input"), *_listed(problem, "plus_input")]
    inputs = [[restore(item, shape) for item, shape in zip(row, _padded(shapes, row), strict=True)] for row in rows]
    code = find_code(completion, (entry_point,))
    source = extract_code(completion, (entry_point,)) if code is None else code
    source, truths = with_truths(source, asserts, (entry_point,))
    prelude, test = _judged(problem, reference, inputs, asserts)
    names = (TRUTH.format(name=entry_point),) if truths else (entry_point,)
    return Program(source, test, prelude, names=names, classes=(), extracted=code is not None)


def _judged(problem: Row, reference: str, inputs: list[Any], asserts: ast.Module | None) -> tuple[str, str]:
    """The tester's prelude and test."""
    entry_point = name(problem, "entry_point")
    prelude = (
        f"{preamble()}from math import inf, nan\ninputs = {inputs!r}\n"
        f"cases = {attribute('expected_by')}({attribute('load')}({reference!r}, {entry_point!r}), inputs)\n"
    )
    truth = asserts is not None and asked_for_truth_only(asserts, entry_point)
    asked = TRUTH.format(name=entry_point) if truth else entry_point
    return prelude, f"{attribute('judge')}({asked}, cases, {_oracle(problem, entry_point, truth)})"


def _oracle(problem: Row, entry_point: str, truth: bool) -> str:
    own = comparison(problem)
    if own is not None:
        return own
    if truth:
        return attribute("same_truth")
    if entry_point in SETS:
        return attribute("same_set")
    tolerance = value(problem, "atol")
    if not isinstance(tolerance, (int, float)):
        raise ValueError(f"{called(problem)}: 'atol' must be a number, not {tolerance!r:.80}.")
    return f"{attribute('as_published')}({float(tolerance)!r})"


def _listed(problem: Row, key: str) -> list[list[Any]]:
    """Inputs, a list of argument lists; where there are none, the published files may have an empty object."""
    found = value(problem, key) or []
    if not isinstance(found, list) or not all(isinstance(arguments, list) for arguments in found):
        raise ValueError(f"{called(problem)}: {key!r} must be a list of argument lists, not {found!r:.80}.")
    return found


def _padded(shapes: list[Any], row: list[Any]) -> list[Any]:
    return (shapes + [None] * len(row))[: len(row)]
