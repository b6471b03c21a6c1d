"""Programming tasks with tests, in the published layouts of HumanEval and MBPP."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from .jsonl import read_jsonl
from .records import Record, RecordDataModule

_MBPP_PROMPT = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{tests}\n"
)


class CodeTasks(RecordDataModule):
    """Tasks from JSONL files; each is a record with ``task_id``, ``prompt`` and the row itself as ``task``.

    HumanEval rows (``prompt``, ``entry_point``, ``test``) are continued by the model; MBPP rows (``text`` or
    ``prompt``, and ``test_list``) ask for a whole program. Every path may end in a range: ``train.jsonl[2000:3500]``.

    Args:
        train: file of training tasks.
        validation: file of validation tasks.
        test: file of test tasks.
        predict: file of tasks to sample for.
        batch_size: tasks an iteration.
        eval_batch_size: tasks a batch when validating, testing and predicting.
        seed: of the training order.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.files = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.records: dict[str, list[Record]] = {}

    def setup(self, stage: str) -> None:
        """Read the files that the stage needs."""
        wanted = {"fit": ["train", "validation"], "validate": ["validation"]}.get(stage, [stage])
        for split in wanted:
            source = self.files[split]
            if source is not None:
                self.records[split] = [task_record(row) for row in read_jsonl(source)]
            elif split != "validation" or stage == "validate":
                raise ValueError(f"no file of {split} tasks is given; set `--data.{split} FILE`")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of tasks."""
        return self._train_loader(self.records["train"])

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Validation tasks by rising length of their prompts, none if there is no file."""
        return self._eval_loader(_by_length(self.records["validation"])) if "validation" in self.records else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Test tasks, by rising length of their prompts: a batch of like lengths wastes little on padding."""
        return self._eval_loader(_by_length(self.records["test"]))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Tasks to sample for, by rising length of their prompts."""
        return self._eval_loader(_by_length(self.records["predict"]))


def _by_length(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: len(record["prompt"]))


def task_record(row: Record) -> Record:
    """A task's record from a row of either layout.

    Raises:
        ValueError: naming file and line, if the row is of neither.
    """
    if {"prompt", "entry_point", "test"} <= row.keys():
        return {"task_id": row.get("task_id", row["_source"]), "prompt": row["prompt"], "task": row}
    tests = row.get("test_list", row.get("test"))
    text = row.get("text", row.get("prompt"))
    if text is not None and isinstance(tests, list):
        prompt = _MBPP_PROMPT.format(text=text, tests="\n".join(tests))
        return {"task_id": row.get("task_id", row["_source"]), "prompt": prompt, "task": row}
    raise ValueError(
        f"{row['_source']}: neither a HumanEval row (prompt, entry_point, test) nor an MBPP row (text or prompt, and "
        f"test_list); it has {sorted(set(row) - {'_source'})}"
    )
