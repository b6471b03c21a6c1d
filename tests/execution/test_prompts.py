"""What a model is asked for a task of each benchmark, in each style."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.execution import benchmark_of, task_prompt

HUMAN: dict[str, Any] = {"task_id": "H/0", "prompt": "\n\ndef f(x):\n", "entry_point": "f", "test": "def check(c): ..."}
MBPP: dict[str, Any] = {
    "task_id": 5,
    "text": "Write f.",
    "code": "def f(): ...\r\n",
    "test_list": ["assert f()", "assert 1"],
}
CONTEST: dict[str, Any] = {
    "task_id": "contest-1",
    "prompt": '"""\nSolve.\n"""\nclass Solution:\n    def f(self):\n        ',
    "prompt_sft": "Solve.\n```python\nclass Solution: ...\n```\n",
    "test": "my_solution = Solution()",
}
PLUS: dict[str, Any] = {
    "prompt": '"""\nWrite a function.\nassert f((1,)) == 2\n"""\n',
    "entry_point": "f",
    "canonical_solution": "",
    "base_input": [],
    "plus_input": [],
}
CASES: dict[str, Any] = {"prompt": "Write f.", "entry_point": "f", "cases": []}
HEAD: dict[str, Any] = {**CASES, "prompt": "def f(x):\n"}
SHOTS = [MBPP, {**MBPP, "text": "Write g.", "code": "def g(): ...", "test_list": ["assert g()"]}]
NEXT = ["\ndef", "\nclass", "\nif", "\n#", "\nprint"]
ZERO_SHOT = (
    "You are an expert Python programmer, and here is your task: Write f. Your code should pass these tests:\n\n"
    "assert f()\nassert 1\n"
)


@pytest.mark.parametrize(
    ("row", "benchmark"),
    [
        (HUMAN, "humaneval"),
        (MBPP, "mbpp"),
        ({"prompt": "Write f.", "test": ["assert f()"]}, "mbpp"),
        (CONTEST, "leetcode"),
        (PLUS, "humaneval_plus"),
        ({**PLUS, "assertion": ""}, "mbpp_plus"),
        (CASES, "cases"),
    ],
)
def test_the_layout_tells_the_benchmark(row: dict[str, Any], benchmark: str) -> None:
    assert benchmark_of(row) == benchmark
    assert task_prompt({**row, "_source": "x:1"})["benchmark"] == benchmark


@pytest.mark.parametrize(
    "row", [{"question": "?"}, {"prompt": "p"}, {"text": "t", "test": "s"}, {"test_list": ["assert f"]}]
)
def test_a_row_of_no_layout_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"x:3: neither a HumanEval row .* nor one of cases .*; it has \["):
        benchmark_of({**row, "_source": "x:3"})


@pytest.mark.parametrize(
    ("row", "style", "prompt", "stop"),
    [
        (HUMAN, "completion", "\n\ndef f(x):\n", NEXT),
        (HUMAN, "stripped", "def f(x):", NEXT),
        (MBPP, "zero_shot", ZERO_SHOT, []),
        (CONTEST, "instruct", CONTEST["prompt_sft"], ["<|EOT|>"]),
        (
            CONTEST,
            "cot",
            CONTEST["prompt_sft"] + "\nYou need first write a step-by-step outline and then write the code.",
            ["<|EOT|>"],
        ),
        (CONTEST, "completion", CONTEST["prompt"], NEXT),
        (CONTEST, "stripped", CONTEST["prompt"].strip(), NEXT),
        (CASES, "instruct", "Write f.", ["<|EOT|>"]),
        (HEAD, "completion", "def f(x):\n", NEXT),
    ],
)
def test_prompts_and_stop_strings(row: dict[str, Any], style: Any, prompt: str, stop: list[str]) -> None:
    asked = task_prompt(row, style)
    assert (asked["prompt"], asked["stop"], asked["prompt_style"]) == (prompt, stop, style)


@pytest.mark.parametrize(
    ("row", "style"),
    [
        (HUMAN, "completion"),
        (PLUS, "completion"),
        (MBPP, "zero_shot"),
        (CONTEST, "instruct"),
        (CASES, "instruct"),
        (HEAD, "completion"),
    ],
)
def test_auto_is_resolved(row: dict[str, Any], style: Any) -> None:
    assert task_prompt(row) == task_prompt(row, style)


@pytest.mark.parametrize("row", [HUMAN, HEAD])
def test_instructions_hold_the_prompt_in_a_fence(row: dict[str, Any]) -> None:
    prompt = task_prompt(row, "instruct")["prompt"]
    assert prompt.startswith("Please continue to complete the function.")
    assert prompt.endswith(f"completion:\n```python\n{row['prompt']}\n```")


def test_the_papers_instruction() -> None:
    prompt = task_prompt(HUMAN, "paper")["prompt"]
    assert prompt.startswith("Read the following function signature and docstring, and fully implement the function")
    assert prompt.endswith(f"the code for this function.\n{HUMAN['prompt']}")


def test_few_shot_shows_examples_and_stops_at_their_end() -> None:
    asked = task_prompt(MBPP, "few_shot", SHOTS)
    first = f"{ZERO_SHOT}[BEGIN]\ndef f(): ...\n[DONE]\n\n"
    assert asked["prompt"].startswith(first)
    assert asked["prompt"].count("[DONE]") == 2
    assert asked["prompt"].endswith(f"{ZERO_SHOT}[BEGIN]\n")
    assert asked["stop"] == ["[DONE]"]


def test_instructions_for_chat_models_show_examples_in_fences() -> None:
    prompt = task_prompt(MBPP, "instruct", SHOTS)["prompt"]
    assert prompt.startswith("Please refer the given examples and generate a python function for my problem.")
    assert prompt.count("```python\ndef ") == 2
    assert prompt.endswith(">>> Problem:\nWrite f.\n>>> Test Cases:\nassert f()\nassert 1\n")


def test_mbpp_plus_shows_the_assert_of_its_docstring() -> None:
    prompt = task_prompt({**PLUS, "assertion": ""}, "zero_shot")["prompt"]
    assert prompt == ZERO_SHOT.replace("Write f.", "Write a function.").replace("f()\nassert 1", "f((1,)) == 2")


@pytest.mark.parametrize(
    ("row", "style", "message"),
    [
        (HUMAN, "cot", "task 'H/0': there is no prompt_style 'cot' for humaneval; choose auto or one of completion"),
        (
            MBPP,
            "completion",
            "there is no prompt_style 'completion' for mbpp; choose auto or one of zero_shot, few_shot",
        ),
        (
            MBPP,
            "few_shot",
            r"prompt_style 'few_shot' shows examples; name the rows to show as `shots`, as in `--data\.",
        ),
        (MBPP, "instruct", "prompt_style 'instruct' shows examples"),
    ],
)
def test_a_style_that_does_not_fit_is_refused(row: dict[str, Any], style: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_prompt(row, style)
