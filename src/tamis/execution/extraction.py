"""Finds the code in what a model answered.

Takes time proportional to the answer's length, whatever the answer is, and runs nothing of it.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import NamedTuple

PYTHON = ("python", "python3", "py")
END_TOKENS = ("<|endoftext|>", "<|EOT|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>")
FENCE = "```"
TAGS = {"[PYTHON]": "\n```python\n", "[/PYTHON]": "\n```\n"}
DEFINES = r"^(?:(?:async[ \t]+)?def|class)[ \t]+(?:{names})\b|^(?:{names})[ \t]*=(?!=)"
ANY_DEFINITION = r"^(?:(?:async[ \t]+)?def|class)[ \t]+\w"
# Written so that no text makes them backtrack: what repeats never meets what it may stand for.
STARTS = re.compile(r"(?:async +def|def|class|import|from) +\w|@\w|\w+ *(?::[^=\n]*)?=")
STATEMENT = re.compile(r"^[ \t]*(?:return|yield|def|class|import|for|while|if)\b", re.MULTILINE)
EXAMPLE = re.compile(r"print\(|assert\b|#|$")
PARSED_CHARS = 32_000  # a longer answer is no function; parsing takes memory, and deep nesting time
ATTEMPTS = 12


class _Block(NamedTuple):
    code: str
    language: str


def extract_code(text: str, names: Sequence[str] = ()) -> str:
    """Returns the code of an answer, or the answer itself (cleaned) where there is none. See ``find_code``."""
    code = find_code(text, names)
    return clean(text) if code is None else code


def find_code(text: str, names: Sequence[str] = ()) -> str | None:
    """Returns the code of an answer with LF line ends, or None if it has none.

    Thinking (all before the last ``</think>``) and all from an end token on are dropped first. Then comes, of the
    fenced blocks (a missing fence is forgiven), the first that defines one of ``names``, else the first marked as
    Python, else the first; or the part between ``[BEGIN]`` and ``[DONE]`` (either may be missing); or, where an
    answer mixes code and prose, the longest run of lines from a statement on that is Python.

    Args:
        text: The answer.
        names: What the code has to define. Empty: any function or class.
    """
    text = clean(text)
    if FENCE in text:
        return _from_blocks(text, names)
    before, tag, after = text.partition("[BEGIN]")
    if tag or "[DONE]" in text:  # the opening tag was in the prompt, as in few-shot prompts, or there is none
        code = before if "[DONE]" in before or not tag else after
        return code.partition("[DONE]")[0].lstrip("\n") or None
    return _from_prose(text, names)


def clean(text: str) -> str:
    """The answer without its thinking and what follows an end token, with LF line ends."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").rpartition("</think>")[2].partition("<think>")[0]
    for token in END_TOKENS:
        text = text.partition(token)[0]
    text = text.removesuffix("</s>")
    for tag, fence in TAGS.items():
        text = text.replace(tag, fence)
    return text


def defines(code: str, names: Sequence[str]) -> bool:
    """Whether a line of the code, at its margin, defines one of the names (any name, if there are none)."""
    pattern = DEFINES.format(names="|".join(map(re.escape, names))) if names else ANY_DEFINITION
    return re.search(pattern, code, re.MULTILINE) is not None


def _from_blocks(text: str, names: Sequence[str]) -> str | None:
    before, blocks = _split(text)
    chosen = [block for block in blocks if defines(block.code, names)]
    if not chosen and (defines(before, names) or _is_body(before)):
        return _from_prose(before, names)  # a closing fence alone: the opening one was in the prompt
    chosen = chosen or [block for block in blocks if block.language.lower() in PYTHON] or blocks
    codes = [block.code for block in chosen if block.code.strip()] or [before]
    return _without_examples(codes[0], names) if codes[0].strip() else None


def _is_body(text: str) -> bool:
    """Whether the text starts as a function's body does: indented."""
    return text.lstrip("\n")[:1] in (" ", "\t") and text.strip() != ""


def _split(text: str) -> tuple[str, list[_Block]]:
    """What stands before the first fence, and the blocks."""
    parts = text.split(FENCE)
    blocks = []
    for opening, part in zip(parts[::2], parts[1::2], strict=False):
        language, newline, code = part.partition("\n")
        margin = opening.rpartition("\n")[2]
        indented = bool(margin) and not margin.strip()  # as a whole: in a list, for instance
        if newline:
            blocks.append(_Block(textwrap.dedent(code) if indented else code, language.strip().partition(" ")[0]))
    return parts[0], blocks


def _without_examples(code: str, names: Sequence[str]) -> str:
    """Drops what follows the last definition, as far as it is printing and asserting: it is no part of the answer."""
    if not defines(code, names):
        return code
    lines = code.split("\n")
    end = len(lines)
    while end and EXAMPLE.match(lines[end - 1]):
        end -= 1
    # Comments and blank lines alone are left as they came.
    return "\n".join(lines[:end]) + "\n" if any(line[:1] in ("p", "a") for line in lines[end:]) else code


def _from_prose(text: str, names: Sequence[str]) -> str | None:
    """The lines that are code, of an answer without fences."""
    if len(text) > PARSED_CHARS:
        return text
    whole = _parse(f"if True:\n{text}" if _is_body(text) else text)
    if isinstance(whole, ast.Module):
        return _without_examples(text, names) if any(map(_does_something, whole.body)) else None
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if STARTS.match(line)]
    defining = [span for span in _spans(lines, starts) if defines(span, names)]
    if defining:
        return _without_examples(max(defining, key=len), names)
    return text if STATEMENT.search(text) else None


def _does_something(statement: ast.stmt) -> bool:
    """False for what a word of prose is read as: a bare name or constant."""
    return not isinstance(statement, ast.Expr) or any(isinstance(node, ast.Call) for node in ast.walk(statement))


def _spans(lines: list[str], starts: list[int]) -> list[str]:
    """Runs of lines that are Python. An error says where a run ends, or that its first statement is none."""
    spans = []
    attempts = ATTEMPTS
    while starts and attempts:
        first, end = starts[0], len(lines)
        while end > first and attempts:
            attempts -= 1
            error = _parse("\n".join(lines[first:end]))
            if isinstance(error, ast.Module):
                spans.append("\n".join(lines[first:end]) + "\n")
                break
            end = _statement_before(lines, first, min(first + error - 1, end - 1))
        starts = [start for start in starts if start >= max(end, first + 1)]
    return spans


def _statement_before(lines: list[str], first: int, wrong: int) -> int:
    """Where the statement at the margin begins that holds the wrong line."""
    while wrong > first and lines[wrong][:1] in ("", " ", "\t", ")", "]", "}"):
        wrong -= 1
    return wrong


def _parse(code: str) -> ast.Module | int:
    """The syntax tree, or the line of the first error. For texts up to ``PARSED_CHARS``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in the model's strings
            return ast.parse(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError, OverflowError):  # NUL, surrogates, nesting
        return 1
