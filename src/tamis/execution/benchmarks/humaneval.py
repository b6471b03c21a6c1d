"""HumanEval, and tasks of your own in its layout: the model continues a prompt that holds a function's head."""

from __future__ import annotations

import ast
import re
import warnings

from ..extraction import clean, defines, find_code
from ..programs import Program
from .asserts import definitions
from .comparators import compared, without_numpy
from .rows import Row, name, text, tree

MARGIN = "    "


def humaneval(problem: Row, completion: str) -> Program:
    """A HumanEval row and an answer to it.

    Args:
        problem: A row of HumanEval's JSON lines: ``task_id``, ``prompt``, ``entry_point``, ``test``; a trailing
            ``check(...)`` in the test, as in DeepSeek's copy, is not run twice. Optionally ``comparator``.
        completion: The text that follows the prompt, a function body; or an answer with the whole function in it.

    Raises:
        ValueError: The row lacks a key, or one of them is not as it should be.
    """
    entry_point, test = name(problem, "entry_point"), text(problem, "test")
    source, extracted = continued(text(problem, "prompt"), entry_point, completion)
    module = tree(problem, "test", test)
    if "check" in definitions(module) and not _is_called(module, "check"):
        test = f"{test}\ncheck({entry_point})"
    numbers, test = without_numpy(problem, test, module)
    before, test = compared(problem, test, (entry_point, *_parameters(module, "check")))
    prelude = _runnable(text(problem, "prompt")) + numbers + before
    return Program(source, test, prelude, names=(entry_point,), classes=(), extracted=extracted)


def continued(prompt: str, entry_point: str, completion: str) -> tuple[str, bool]:
    """The program that prompt and answer make together, and whether there was code in the answer.

    A continuation is put behind the prompt as it is. An answer that has the function itself, or has its code in a
    fence, stands alone, behind what the prompt has before the function; helpers and imports of both are kept.
    """
    answer = clean(completion)
    fenced = "```" in answer
    body_first = answer.lstrip("\n")[:1] in (" ", "\t")
    if not fenced and (body_first or not defines(answer, (entry_point,))):
        found = bool(answer.strip()) and (body_first or find_code(completion) is not None)
        return prompt + _spaced(answer), found
    code = find_code(completion, (entry_point,))
    if code is None:
        return prompt + answer, False
    if defines(code, (entry_point,)):
        return _future_first(_before(prompt, entry_point) + code), True
    return prompt + _as_body(code), True


def _before(prompt: str, entry_point: str) -> str:
    """The prompt's lines before the function: imports and helpers. Nothing of a prompt that is no code."""
    head = re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", prompt, re.MULTILINE)
    return prompt[: head.start()] if head else _runnable(prompt)


def _future_first(code: str) -> str:
    """Moves imports from __future__ to the top, where Python wants them."""
    future = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
    return "".join(line.rstrip("\n") + "\n" for line in future.findall(code)) + future.sub("", code)


def _spaced(body: str) -> str:
    """With tabs at the margin as four spaces: the prompt is indented by spaces, and Python takes no mixture."""
    if not body.lstrip("\n").startswith("\t"):
        return body
    return re.sub(r"^\t+", lambda tabs: MARGIN * len(tabs[0]), body, flags=re.MULTILINE)


def _as_body(code: str) -> str:
    """A body from a fence, indented: fences lose the margin, of the whole body or of its first line alone."""
    lines = _spaced(code.strip("\n")).split("\n")
    if lines[0][:1] == " ":
        return "\n".join(lines) + "\n"
    rest = [line for line in lines[1:] if line.strip()]
    first_alone = bool(rest) and all(line.startswith(MARGIN) for line in rest) and not lines[0].rstrip().endswith(":")
    indented = lines[:1] if first_alone else lines
    return "\n".join([*(MARGIN + line for line in indented), *lines[len(indented) :]]) + "\n"


def _runnable(prompt: str) -> str:
    """The prompt as trusted code, whose helpers the test may use; nothing if it is no code."""
    for code in (f"{prompt}\n", f"{prompt}\n{MARGIN}pass\n"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # docstrings have invalid escapes
                ast.parse(code)
        except SyntaxError:
            continue
        return code
    return ""


def _is_called(module: ast.Module, function: str) -> bool:
    calls = [node.value for node in module.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == function for call in calls)


def _parameters(module: ast.Module, function: str) -> list[str]:
    node = definitions(module).get(function)
    return [argument.arg for argument in node.args.args] if isinstance(node, ast.FunctionDef) else []
