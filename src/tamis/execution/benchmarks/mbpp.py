"""MBPP, and tasks of your own in its layout: a description and asserts; the answer is a whole program."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from ..extraction import extract_code, find_code
from ..programs import Program
from .asserts import asked_for_truth_only, definitions, entry_points, missing_modules, used_names
from .comparators import compared, without_numpy
from .rows import Row, called, lines, text, tree

TRUTH = "truth_of_{name}"


def mbpp(problem: Row, completion: str) -> Program:
    """An MBPP row and an answer to it.

    Takes the full set (``test_list``, ``test_setup_code``), the sanitised one (``test_list``, ``test_imports``) and
    DeepSeek's copy of the test split (the asserts in ``test``), and MBPP+ as the hub has it (a whole program in
    ``test``). As is usual, ``challenge_test_list`` is not run.
    What the test may use of the answer are the functions and classes of the row's reference ``code`` that the asserts
    name; without a reference, the names that the asserts leave undefined.

    Args:
        problem: The row. Optionally with ``comparator``.
        completion: The model's answer: code, or text with code in it (see ``find_code``).

    Raises:
        ValueError: The row lacks a key, or its asserts are not a list of strings, or not Python.
    """
    asserts = "\n".join(lines(problem, "test_list" if "test_list" in problem else "test"))
    imports = lines(problem, "test_imports") if "test_imports" in problem else []
    setup = text(problem, "test_setup_code").replace("\r\n", "\n") if problem.get("test_setup_code") else ""
    tests, reference = tree(problem, "test_list", asserts), reference_of(problem)
    names = entry_names(problem, tests, setup, reference)
    prelude, test = _judging(problem, asserts, tests, names)
    code = find_code(completion, names)
    source = "\n".join([*imports, extract_code(completion, names) if code is None else code])
    if uses(setup, names):  # it builds arguments of the candidate's classes, which only the candidate has
        source, names = f"{source}\n{setup}", (*names, *definitions(tree(problem, "test_setup_code", setup)))
        setup = ""
    source, truths = with_truths(source, tests, names)
    names = tuple(TRUTH.format(name=name) if name in truths else name for name in names)
    classes = tuple(name for name in names if isinstance(reference.get(name), ast.ClassDef)) if reference else None
    renamed = [f"{name} = {TRUTH.format(name=name)}" for name in truths]
    test = "\n".join([*imports, *renamed, *([setup] if setup else []), test])
    return Program(source, test, prelude, names=names, classes=classes, extracted=code is not None)


def _judging(problem: Row, asserts: str, tests: ast.Module, names: tuple[str, ...]) -> tuple[str, str]:
    """What goes before the test, and the test, as the row's own keys ask."""
    prelude, test = "".join(f"import {module}\n" for module in missing_modules(tests)), asserts
    if isinstance(problem.get("test"), str) and "test_list" in problem:  # the hub's MBPP+: more than the asserts
        test = text(problem, "test")
        numbers, test = without_numpy(problem, test, tree(problem, "test", test))
        prelude += numbers
    comparator, test = compared(problem, test, names)
    return prelude + comparator, test


def reference_of(problem: Row) -> dict[str, ast.stmt]:
    """What the row's reference solution defines, by name; nothing if it has none."""
    if "code" not in problem:
        return {}
    return definitions(tree(problem, "code", text(problem, "code").replace("\r\n", "\n")))


def entry_names(problem: Row, tests: ast.Module, setup: str, reference: Mapping[str, ast.stmt]) -> tuple[str, ...]:
    """What the tests, and the code that sets them up, may use of the candidate.

    Raises:
        ValueError: The tests use nothing of it.
    """
    wanted = [*used_names(tests), *used_names(tree(problem, "test_setup_code", setup))]
    found = [name for name in wanted if name in reference]
    if not found:
        found = entry_points(tree(problem, "test_list", f"{setup}\n{ast.unparse(tests)}"))
    if not found:
        raise ValueError(f"{called(problem)}: its asserts call no function that an answer could define.")
    return tuple(dict.fromkeys(found))


def with_truths(source: str, tests: ast.Module, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """Adds to the source ``truth_of_f`` for each function f that the tests ask for nothing but true or false.

    Such a function may return what is no data, a match of a regular expression for instance; its truth value is.

    Returns:
        The source, and the functions.
    """
    truths = [name for name in names if asked_for_truth_only(tests, name)]
    for name in truths:
        source += (
            f"\n\ndef {TRUTH.format(name=name)}(*arguments, **named):\n    return bool({name}(*arguments, **named))\n"
        )
    return source, truths


def uses(code: str, names: tuple[str, ...]) -> bool:
    """Whether trusted code reads one of the names."""
    return bool(code) and not set(names).isdisjoint(used_names(ast.parse(code)))
