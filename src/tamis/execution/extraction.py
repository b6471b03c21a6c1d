"""Finds the code in what a model answered."""

from __future__ import annotations

import re
import textwrap

FENCE = re.compile(
    r"(?P<indent>[ \t]*)```[ \t]*(?P<language>[\w+.-]*)[^\n`]*\n(?P<code>.*?)(?P<close>```|\Z)", re.DOTALL
)
PYTHON = ("python", "python3", "py")


def extract_code(text: str) -> str:
    """Returns the code of an answer, with LF line ends.

    Thinking (all before the last ``</think>``) is dropped first. Then, the first of these that is there: a fenced
    block marked as Python, any fenced block (a missing closing fence is forgiven), the part between ``[BEGIN]`` and
    ``[DONE]`` (either may be missing), the whole text.
    """
    text = text.replace("\r\n", "\n").rpartition("</think>")[2]
    blocks = list(FENCE.finditer(text))
    for block in blocks:
        if block["language"].lower() in PYTHON:
            return _block_code(block)
    if blocks:
        first = blocks[0]
        if not first["close"] and not first["code"].strip():
            return text[: first.start()]  # a closing fence alone: the opening one was in the prompt
        return _block_code(first)
    return _between_tags(text)


def _block_code(block: re.Match[str]) -> str:
    code = block["code"]
    return textwrap.dedent(code) if block["indent"] else code  # indented as a whole, in a list for instance


def _between_tags(text: str) -> str:
    before, tag, after = text.partition("[BEGIN]")
    if "[DONE]" in before or not tag:  # the opening tag was in the prompt, as in few-shot prompts, or there is none
        return before.partition("[DONE]")[0]
    return after.partition("[DONE]")[0].lstrip("\n")
