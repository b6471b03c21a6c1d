"""Prompt-completion pairs for supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from .code_tasks import task_record
from .jsonl import check_texts, read_jsonl
from .records import Record, RecordDataModule


class Instructions(RecordDataModule):
    """Demonstrations from JSONL rows with ``prompt`` and ``completion``, or MBPP rows with their reference ``code``.

    Args:
        train: file of demonstrations; may end in a range, ``demos.jsonl[:2000]``.
        validation: file of held-out demonstrations.
        batch_size: pairs a training batch.
        eval_batch_size: pairs a batch when validating.
        seed: of the training order.
    """

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.files = {"train": train, "validation": validation}

    def setup(self, stage: str) -> None:
        """Read both files."""
        for split, source in self.files.items():
            if source is not None:
                self.records[split] = [_demonstration(row) for row in read_jsonl(source)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of pairs of similar length."""
        lengths = [len(record["prompt"]) + len(record["completion"]) for record in self.records["train"]]
        return self._train_loader(lengths)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Held-out pairs, none if there is no file."""
        return self._eval_loader(self.records.get("validation", []))


def _demonstration(row: Record) -> Record:
    if {"prompt", "completion"} <= row.keys():
        found = {"prompt": row["prompt"], "completion": row["completion"]}
    elif "code" in row:
        check_texts(row, ["code"])
        found = {"prompt": task_record(row)["prompt"], "completion": f"```python\n{row['code'].strip()}\n```"}
    elif {"prompt", "canonical_solution"} <= row.keys():
        found = {"prompt": row["prompt"], "completion": row["canonical_solution"]}
    else:
        raise ValueError(
            f"{row['_source']}: a demonstration needs prompt and completion, or a task with its reference (code or "
            f"canonical_solution); it has {sorted(set(row) - {'_source'})}"
        )
    record = {**found, "_source": row["_source"]}
    check_texts(record, ("prompt", "completion"))
    return record
