"""JSONL files of demonstrations, pairs and tasks."""

from __future__ import annotations

from typing import Any

from .case import BadInput, file, rows

_DEMO = {"prompt": "a", "completion": "b"}
_PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
_TASK = {"task_id": "t/1", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(f):\n    assert f(1) == 2\n"}
_LONG = "def f(x): " * 400


def _demos(wrong: str, says: tuple[str, ...], *last: Any, again: bool = False) -> BadInput:
    return BadInput(wrong, "sft --data.train={here}/rows.jsonl", says, rows(*[_DEMO] * 4, *last), again)


def _pairs(wrong: str, says: tuple[str, ...], **bad: Any) -> BadInput:
    command = "pairs --data.path={here}/rows.jsonl --data.validation_share=0"
    return BadInput(wrong, command, ("rows.jsonl:5", *says), rows(*[_PAIR] * 4, {**_PAIR, **bad}))


def _tasks(wrong: str, says: tuple[str, ...], *bad: Any, flags: str = "") -> BadInput:
    command = f"policy --data.train={{here}}/rows.jsonl --data.batch_size=1 {flags}"
    return BadInput(wrong, command, says, rows(_TASK, *bad))


_FILE = "sft --data.train={here}/rows.jsonl"
TEXTS = [
    BadInput("no file", "sft --data.train=nope.jsonl", ("'nope.jsonl'", "give a .jsonl")),
    BadInput("an empty file", _FILE, ("rows.jsonl: no rows",), file("rows.jsonl", "")),
    BadInput(
        "a range beyond the file",
        "sft --data.train={good}/demos.jsonl[500:]",
        ("demos.jsonl[500:]", "the range lies outside"),
    ),
    BadInput(
        "a line that broke off",
        _FILE,
        ("rows.jsonl:2: not valid JSON", "column 12", "one JSON object a line"),
        file("rows.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "a'),
    ),
    BadInput(
        "a CSV",
        _FILE,
        ("rows.jsonl:1: not valid JSON", "one JSON object a line"),
        file("rows.jsonl", "prompt,completion\na,b\n"),
    ),
    BadInput(
        "Latin-1",
        _FILE,
        ("rows.jsonl: not UTF-8 text", "0xfc", "save the file as UTF-8"),
        file("rows.jsonl", b'{"prompt": "M\xfc", "completion": "b"}\n'),
    ),
    _demos("a row that is a list", ("rows.jsonl:5: expected an object, got list", "JSON object"), [1]),
    _demos(
        "other columns",
        ("rows.jsonl:5", "prompt and completion", "['answer', 'question']"),
        {"question": "a", "answer": "b"},
    ),
    _demos(
        "a completion that is a number",
        ("rows.jsonl:5: completion must be a text, got int",),
        {**_DEMO, "completion": 3},
    ),
    _demos(
        "a response of no length", ("rows.jsonl:5: completion is empty", "drop the row"), {**_DEMO, "completion": ""}
    ),
    _demos(
        "a demonstration longer than the context",
        ("rows.jsonl:5 has", "tokens", "max_length=512", "drop the row"),
        {**_DEMO, "prompt": _LONG},
    ),
    BadInput(
        "a pair's prompt longer than the context",
        "dpo --data.path={here}/rows.jsonl --data.validation_share=0",
        ("rows.jsonl:5 has", "max_length=512", "drop the row"),
        rows(*[_PAIR] * 4, {**_PAIR, "prompt": _LONG}),
    ),
    _pairs("a pair of one text", ("chosen and rejected are the same", "drop the pair"), chosen="c"),
    _pairs("a margin that is a word", ("margin must be a number", "'big'", "leave it out"), margin="big"),
    BadInput(
        "pairs of one prompt",
        "pairs --data.path={here}/rows.jsonl",
        ("all 1 prompts on one side", "validation_share=0.1"),
        rows(*[_PAIR] * 8),
    ),
    _tasks(
        "a task without tests",
        ("rows.jsonl:2", "HumanEval row", "['prompt', 'task_id']"),
        {"task_id": "t/2", "prompt": "def f():"},
    ),
    _tasks(
        "a prompt longer than the context",
        ("task 't/2' (", "rows.jsonl:2) has", "512 positions", "longer context"),
        {**_TASK, "task_id": "t/2", "prompt": _LONG},
        flags="--model.max_prompt_tokens=100000",
    ),
    BadInput(
        "two tasks of one id",
        "pass_at_k --data.test={here}/rows.jsonl",
        ("rows.jsonl:2: the task_id 't/1'", "rows.jsonl:1", "an id of its own"),
        rows(_TASK, {**_TASK, "prompt": "def f(y):\n"}),
    ),
    BadInput(
        "no tasks",
        "nothing test --model=CodePolicy --model.model_name_or_path={good}/model --data=CodeTasks",
        ("no file of test tasks", "--data.test FILE"),
    ),
]
