"""What a model is asked, where it stops, and how its answer continues: one entry a benchmark and style.

The wordings are those of the published harnesses (DeepSeek-Coder's for HumanEval, MBPP and LeetCode, and PF-PPO's), so
that scores can be compared. A chat template is put around a prompt elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from .cases import has_head
from .rows import Row, called, lines, text

PromptStyle = Literal["auto", "completion", "stripped", "instruct", "paper", "zero_shot", "few_shot", "cot"]
"""How a task is put to a model.

- ``auto``: ``completion`` for HumanEval, ``zero_shot`` for MBPP, ``instruct`` for LeetCode, what fits for own tasks.
- ``completion``: the prompt as published, to be continued. For base models.
- ``stripped``: the same without white space around it: many tokenizers join a line's end and the next one's margin.
- ``instruct``: asks a chat model for the code in a fence. MBPP's has three examples before it, and so needs ``shots``.
- ``paper``: PF-PPO's instruction for HumanEval.
- ``zero_shot``: MBPP's task and tests. ``few_shot``: the same after three examples, for base models; needs ``shots``.
- ``cot``: LeetCode's ``instruct``, asking for an outline first.
"""
STYLES: tuple[str, ...] = get_args(PromptStyle)

NEXT_STATEMENT = ("\ndef", "\nclass", "\nif", "\n#", "\nprint")
END_OF_TURN = ("<|EOT|>",)
CONTINUED = ("completion", "stripped")
OFFERED = {
    "humaneval": ("completion", "stripped", "instruct", "paper"),
    "humaneval_plus": ("completion", "stripped", "instruct", "paper"),
    "mbpp": ("zero_shot", "few_shot", "instruct"),
    "mbpp_plus": ("zero_shot", "few_shot", "instruct"),
    "leetcode": ("instruct", "cot", "completion", "stripped"),
    "cases": ("completion", "stripped", "instruct"),
}
HUMANEVAL_INSTRUCT = (
    "Please continue to complete the function. You are not allowed to modify the given code and do the completion "
    "only. Please return all completed function in a codeblock. Here is the given code to do completion:\n"
    "```python\n{prompt}\n```"
)
HUMANEVAL_PAPER = (
    "Read the following function signature and docstring, and fully implement the function described. Your response "
    "should only contain the code for this function.\n{prompt}"
)
MBPP_TASK = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n"
)
MBPP_SHOT = ">>> Problem:\n{text}\n>>> Test Cases:\n{tests}\n"
MBPP_INSTRUCT = (
    "Please refer the given examples and generate a python function for my problem.\nExamples are listed as follows:\n"
    "{shots}\n\nHere is my problem:\n{task}"
)
COT = "\nYou need first write a step-by-step outline and then write the code."


def resolved_style(row: Row, benchmark: str, style: str) -> str:
    """The style that ``auto`` stands for; any other as it is.

    Raises:
        ValueError: There is no such style for the benchmark.
    """
    if style == "auto":
        if benchmark == "cases" and not has_head(text(row, "prompt"), text(row, "entry_point")):
            return "instruct"
        return OFFERED[benchmark][0]
    if style not in OFFERED[benchmark]:
        raise ValueError(
            f"{called(row)}: there is no prompt_style {style!r} for {benchmark}; choose auto or one of "
            f"{', '.join(OFFERED[benchmark])}."
        )
    return style


def stop_strings(benchmark: str, style: str) -> list[str]:
    """The strings at which an answer in a (resolved) style ends."""
    if style in CONTINUED:
        return list(NEXT_STATEMENT)
    if style == "few_shot":
        return ["[DONE]"]
    return list(END_OF_TURN) if style in ("instruct", "paper", "cot") else []


def build_prompt(row: Row, benchmark: str, style: str, shots: Sequence[Row] = ()) -> str:
    """The text that a model is given.

    Args:
        row: The task.
        benchmark: Which benchmark it is of.
        style: A resolved style.
        shots: MBPP rows with their reference code, for the styles that show examples.

    Raises:
        ValueError: The style needs shots and there are none, or the row lacks a key.
    """
    if benchmark in ("mbpp", "mbpp_plus"):
        return _mbpp_prompt(row, style, shots)
    prompt = text(row, "prompt_sft" if benchmark == "leetcode" and style in ("instruct", "cot") else "prompt")
    if style == "stripped":
        return prompt.strip()
    if benchmark == "leetcode":
        return prompt + (COT if style == "cot" else "")
    if style == "paper":
        return HUMANEVAL_PAPER.format(prompt=prompt)
    if style == "instruct" and (benchmark != "cases" or has_head(prompt, text(row, "entry_point"))):
        return HUMANEVAL_INSTRUCT.format(prompt=prompt)
    return prompt


def _mbpp_prompt(row: Row, style: str, shots: Sequence[Row]) -> str:
    if style == "zero_shot":
        return _task(MBPP_TASK, row)
    if not shots:
        raise ValueError(
            f"{called(row)}: prompt_style {style!r} shows examples; name the rows to show as `shots`, as in "
            "`--data.shots mbpp.jsonl[1:4]` (the published three), or take prompt_style zero_shot."
        )
    if style == "few_shot":
        examples = [f"{_task(MBPP_TASK, shot)}[BEGIN]\n{_code(shot)}\n[DONE]\n\n" for shot in shots]
        return "".join(examples) + _task(MBPP_TASK, row) + "[BEGIN]\n"
    examples = [
        f"- Example {number}:\n{_task(MBPP_SHOT, shot)}\n>>> Code:\n```python\n{_code(shot)}\n```"
        for number, shot in enumerate(shots, start=1)
    ]
    return MBPP_INSTRUCT.format(shots="\n\n".join(examples), task=_task(MBPP_SHOT, row))


def _task(template: str, row: Row) -> str:
    description = text(row, "text" if "text" in row else "prompt")
    if "base_input" in row:  # MBPP+ has its one assert in the description, all in a docstring
        inner = description.strip().strip('"').strip()
        tests = re.findall(r"^assert .*$", inner, re.MULTILINE)
        description = inner.partition("\nassert ")[0]
    else:
        tests = lines(row, "test_list" if "test_list" in row else "test")
    return template.format(text=description, tests="\n".join(tests))


def _code(shot: Row) -> str:
    return text(shot, "code").replace("\r\n", "\n").strip()
