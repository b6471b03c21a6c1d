"""Reading tasks, demonstrations and preferences, and what is said of files that do not fit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from tamis.datamodules import CodeTasks, Instructions, Preferences
from tamis.datamodules.code_tasks import task_record
from tamis.datamodules.jsonl import read_jsonl

Row = dict[str, Any]
Write = Callable[..., str]

HUMANEVAL = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): ..."}
FULL = {"task_id": 11, "text": "Write f.", "code": "\ndef f(): ...\n", "test_list": ["assert f()", "assert f"]}
SANITISED = {"task_id": 12, "prompt": "Write f.", "code": "def f(): ...", "test_imports": [], "test_list": ["assert f"]}
DEEPSEEK = {"task_id": 13, "prompt": "Write f.", "code": "def f(): ...", "test": ["assert f()"]}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a JSONL file and returns its path."""

    def write_rows(*rows: Any, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write_rows


def _numbers(source: str) -> list[int]:
    return [row["n"] for row in read_jsonl(source)]


def test_rows_know_their_place(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2}\n')
    assert read_jsonl(str(path)) == [{"n": 1, "_source": f"{path}:1"}, {"n": 2, "_source": f"{path}:3"}]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("[2:4]", [2, 3]),
        ("[:2]", [0, 1]),
        ("[4:]", [4, 5]),
        ("[:]", [0, 1, 2, 3, 4, 5]),
        ("[5:99]", [5]),
        ("", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_ranges_are_half_open(rows: str, expected: list[int], write: Write) -> None:
    assert _numbers(write(*({"n": n} for n in range(6))) + rows) == expected


def test_gzip_and_arrays_read_alike(tmp_path: Path) -> None:
    lines, array = '{"n": 1}\n{"n": 2}\n', '  [{"n": 1},\n {"n": 2}]'
    for name, text in (("a.jsonl", lines), ("b.json", array)):
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        assert _numbers(str(tmp_path / name)) == _numbers(str(tmp_path / f"{name}.gz")) == [1, 2]
    assert _numbers(f"{tmp_path / 'a.jsonl.gz'}[1:]") == [2]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_line_feeds_end_a_line(separator: str, tmp_path: Path) -> None:
    """JSON may hold these as they are (``ensure_ascii=False``); `str.splitlines` would cut the row in two."""
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"one{separator}two"}, {"text": "three"}]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8", newline="")
    assert [(row["text"], row["_source"]) for row in read_jsonl(str(path))] == [
        (f"one{separator}two", f"{path}:1"),
        ("three", f"{path}:2"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"n": 1}\n{"n": \n', r"rows\.jsonl:2: not valid JSON \(Expecting value at column"),
        (b'{"n": 1}\n[1, 2]\n', r"rows\.jsonl:2: expected an object, got list"),
        (b'{"n": 1}\n\n"text"\n', r"rows\.jsonl:3: expected an object, got str"),
        (b'[{"n": 1}, 3]', r"rows\.jsonl:2: expected an object, got int"),
        (b'[{"n": 1},', r"rows\.jsonl: not valid JSON"),
        (b'{"n": 1}\n{"m": 2, "k": 3}\n', r"rows\.jsonl:2: the key 'n' is missing; the row has \['k', 'm'\]"),
        (b"", r"rows\.jsonl: no rows"),
        (b"\n\n", r"rows\.jsonl: no rows"),
        (b"[]", r"rows\.jsonl: no rows"),
        (b'{"n": "\xff\xfe"}\n', r"rows\.jsonl: not UTF-8 text \(byte 0xff at position 7\)"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_jsonl(str(path), required=("n",))


def test_a_gz_file_that_is_none_is_named(tmp_path: Path) -> None:
    for name, content in (("plain.jsonl.gz", b'{"n": 1}\n'), ("cut.jsonl.gz", gzip.compress(b'{"n": 1}\n')[:-9])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: not a whole gzip file"):
            read_jsonl(str(tmp_path / name))


def test_a_range_outside_the_file_has_no_rows(write: Write) -> None:
    source = write({"n": 1}, {"n": 2}) + "[2:5]"
    with pytest.raises(ValueError, match=r"rows\.jsonl\[2:5\]: no rows; .* the range lies outside it"):
        read_jsonl(source)


@pytest.mark.parametrize("rows", ["", "[1:2]"])
def test_a_missing_file_is_named(rows: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file 'no/such\.jsonl'"):
        read_jsonl(f"no/such.jsonl{rows}")


@pytest.mark.parametrize("row", [HUMANEVAL, FULL, SANITISED, DEEPSEEK], ids=["humaneval", "full", "sane", "deepseek"])
def test_every_layout_becomes_a_task(row: Row) -> None:
    record = task_record({**row, "_source": "x:1"})
    assert record["task_id"] == row["task_id"]
    assert record["task"] == {**row, "_source": "x:1"}
    if row is HUMANEVAL:
        assert record["prompt"] == row["prompt"]
    else:
        assert "here is your task: Write f. Your code should pass" in record["prompt"]
        assert record["prompt"].endswith("\n".join(row["test_list" if "test_list" in row else "test"]) + "\n")


def test_a_row_without_an_id_is_called_by_its_place() -> None:
    for row in (HUMANEVAL, FULL):
        unnamed = {key: value for key, value in row.items() if key != "task_id"}
        assert task_record({**unnamed, "_source": "x:7"})["task_id"] == "x:7"


@pytest.mark.parametrize(
    "row",
    [{"question": "?"}, {"prompt": "p"}, {"text": "t", "test": "one string"}, {"test_list": ["assert f"]}],
)
def test_a_row_of_no_layout_is_named(row: Row) -> None:
    with pytest.raises(ValueError, match=r"x:3: neither a HumanEval row .* nor an MBPP row .* it has \["):
        task_record({**row, "_source": "x:3"})


def test_tasks_by_stage_and_by_length(write: Write) -> None:
    rows = [{**HUMANEVAL, "task_id": str(size), "prompt": "#" * size} for size in (5, 1, 9, 3)]
    data = CodeTasks(train=write(*rows, name="a.jsonl"), test=write(*rows, name="b.jsonl"), batch_size=2)
    data.setup("fit")
    assert sorted(data.records) == ["train"]
    assert sorted(record["task_id"] for batch in data.train_dataloader() for record in batch) == ["1", "3", "5", "9"]
    assert data.val_dataloader() == []
    data.setup("test")
    assert [record["task_id"] for batch in data.test_dataloader() for record in batch] == ["1", "3", "5", "9"]


def test_the_training_order_follows_the_seed(write: Write) -> None:
    path = write(*({**HUMANEVAL, "task_id": n} for n in range(32)))

    def order(seed: int) -> list[int]:
        data = CodeTasks(train=path, batch_size=8, seed=seed)
        data.setup("fit")
        return [record["task_id"] for batch in data.train_dataloader() for record in batch]

    assert order(1) == order(1) != order(2)
    assert order(1) != list(range(32))


@pytest.mark.parametrize("stage", ["validate", "test", "predict", "fit"])
def test_a_stage_without_its_file_says_which_flag_to_set(stage: str) -> None:
    split = {"validate": "validation", "fit": "train"}.get(stage, stage)
    with pytest.raises(ValueError, match=f"no file of {split} tasks is given; set `--data.{split} FILE`"):
        CodeTasks().setup(stage)


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "p", "completion": "c"}, "p", "c"),
        ({**HUMANEVAL, "canonical_solution": "    return 1\n"}, "def f():\n", "    return 1\n"),
        (FULL, task_record({**FULL, "_source": ""})["prompt"], "```python\ndef f(): ...\n```"),
        (SANITISED, task_record({**SANITISED, "_source": ""})["prompt"], "```python\ndef f(): ...\n```"),
    ],
    ids=["pair", "humaneval", "full", "sane"],
)
def test_every_kind_of_demonstration(row: Row, prompt: str, completion: str, write: Write) -> None:
    data = Instructions(write(row), batch_size=1)
    data.setup("fit")
    source = data.records["train"][0]["_source"]
    assert list(data.train_dataloader()) == [[{"prompt": prompt, "completion": completion, "_source": source}]]
    assert source.endswith("rows.jsonl:1")
    assert data.val_dataloader() == []


def test_a_demonstration_without_its_answer_is_named(write: Write) -> None:
    data = Instructions(write({"prompt": "p", "completion": "c"}, {"prompt": "p"}))
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: a demonstration needs prompt and completion.*\['prompt'\]"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completion": ""}, "completion is empty; mend or drop the row"),
        ({"prompt": " ", "completion": "c"}, "prompt is empty; mend or drop the row"),
        ({"prompt": None, "completion": "c"}, "prompt must be a text, got NoneType; mend"),
        ({"prompt": "p", "canonical_solution": 3}, "completion must be a text, got int"),
        ({"text": "p", "test_list": ["assert f()"], "code": 3}, "code must be a text, got int"),
    ],
)
def test_a_demonstration_of_nothing_is_named(row: Row, message: str, write: Write) -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: " + message):
        Instructions(write({"prompt": "p", "completion": "c"}, row)).setup("fit")


@pytest.mark.parametrize(("split", "stage"), [("validation", "fit"), ("validation", "validate"), ("test", "test")])
def test_one_id_for_two_tasks_is_refused_before_any_is_answered(split: str, stage: str, write: Write) -> None:
    task: Row = {"task_id": "t/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    f()\n"}
    path = write(task, {**task, "task_id": "t/2"}, task)
    train = {"train": f"{path}[:1]"} if stage == "fit" else {}
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: the task_id 't/1' is that of .*rows\.jsonl:1 too"):
        CodeTasks(**train, **{split: path}).setup(stage)  # type: ignore[arg-type]
    CodeTasks(train=path, batch_size=1).setup("fit")  # training tells tasks apart by their rows


def test_the_option_for_a_missing_file_is_named() -> None:
    for stage in (TrainerFn.TESTING, TrainerFn.VALIDATING, TrainerFn.PREDICTING):
        with pytest.raises(ValueError, match="set `--data.(test|validation|predict) FILE`"):
            CodeTasks().setup(stage)


def _pairs(prompts: int, each: int = 3) -> list[Row]:
    return [
        {"prompt": f"prompt {prompt}", "chosen": f"good {index}", "rejected": f"bad {index}"}
        for index in range(each)
        for prompt in range(prompts)
    ]


def test_no_prompt_is_on_both_sides_of_the_split(write: Write) -> None:
    data = Preferences(write(*_pairs(40)), validation_share=0.3, batch_size=1)
    data.setup("fit")
    sides = [{row["prompt"] for row in side} for side in (data.records["train"], data.records["validation"])]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    assert len(data.records["train"]) + len(data.records["validation"]) == 120
    assert 4 <= len(sides[1]) <= 20  # 12 expected, standard deviation 2.9
    assert len(list(data.val_dataloader())) == 1
    data.setup("validate")
    assert (
        len(data.records["train"]) + len(data.records["validation"]) == 120
    )  # a second stage does not read the file twice over


def test_the_split_is_the_same_in_every_process(write: Write) -> None:
    """The numbers were written down in another process; a split by Python's `hash` would differ in each."""
    data = Preferences(write(*_pairs(20, each=1)), validation_share=0.5)
    data.setup("fit")
    assert [int(row["prompt"].split()[1]) for row in data.records["validation"]] == [2, 3, 6, 7, 12, 13, 16, 17]


def test_a_share_of_zero_trains_on_everything(write: Write) -> None:
    data = Preferences(write(*_pairs(8)), validation_share=0.0)
    data.setup("fit")
    assert len(data.records["train"]) == 24
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match=r"validation_share must lie in \[0, 1\), got 1\.0"):
        Preferences("x", validation_share=1.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, r"rows\.jsonl:2: chosen and rejected are the same text"),
        ({"prompt": "p", "chosen": "c"}, r"rows\.jsonl:2: the key 'rejected' is missing"),
        ({"prompt": "p", "rejected": "r"}, r"rows\.jsonl:2: the key 'chosen' is missing"),
        ({"prompt": " \n", "chosen": "c", "rejected": "r"}, r"rows\.jsonl:2: prompt is empty; mend or drop the row"),
        ({"prompt": "p", "chosen": "", "rejected": "r"}, r"rows\.jsonl:2: chosen is empty; mend or drop the row"),
        ({"prompt": "p", "chosen": "c", "rejected": "\t"}, r"rows\.jsonl:2: rejected is empty; mend or drop the row"),
        ({"prompt": "p", "chosen": "c", "rejected": None}, r"rows\.jsonl:2: rejected must be a text, got NoneType"),
        ({"prompt": [{"role": "user"}], "chosen": "c", "rejected": "r"}, r"jsonl:2: prompt must be a text, got list"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": "1"}, r"jsonl:2: margin must be .* got '1'"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": True}, r"jsonl:2: margin must be .* got True"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": -1}, r"jsonl:2: margin must be .* got -1"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": None}, r"jsonl:2: margin must be .* got None"),
    ],
)
def test_a_pair_that_is_none_is_named(row: Row, message: str, write: Write) -> None:
    with pytest.raises(ValueError, match=message):
        Preferences(write(*_pairs(1, each=1), row)).setup("fit")


@pytest.mark.parametrize(("share", "sides"), [(0.001, "5 pairs to train on, 0 held"), (0.999, "0 pairs .* 5 held")])
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_split_with_an_empty_side_is_refused(stage: str, share: float, sides: str, write: Write) -> None:
    with pytest.raises(ValueError, match=rf"rows\.jsonl: the split by prompt puts all 5 prompts on one side \({sides}"):
        Preferences(write(*_pairs(5, each=1)), validation_share=share).setup(stage)


def test_pairs_of_an_empty_file_and_margins(write: Write) -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl: no rows"):
        Preferences(write()).setup("fit")
    data = Preferences(write({"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2}), validation_share=0.0)
    data.setup("fit")
    assert data.records["train"][0]["margin"] == 2


def test_a_batch_larger_than_the_data_is_refused(write: Write) -> None:
    demonstration = {"prompt": "p", "completion": "c"}
    for data in (
        CodeTasks(train=write(HUMANEVAL, HUMANEVAL, name="a.jsonl"), batch_size=3),
        Instructions(write(demonstration, demonstration, name="b.jsonl"), batch_size=3),
        Preferences(write(*_pairs(2, each=1), name="c.jsonl"), validation_share=0.0, batch_size=3),
    ):
        data.setup("fit")
        with pytest.raises(ValueError, match="batch_size=3 is more than the 2 training records there are"):
            data.train_dataloader()


def test_a_batch_holds_at_least_one_record() -> None:
    with pytest.raises(ValueError, match="batch_size and eval_batch_size must be at least 1, got 0 and 256"):
        CodeTasks(batch_size=0)
    with pytest.raises(ValueError, match="got 32 and 0"):
        Instructions("x", eval_batch_size=0)
