"""The shape that all text datamodules share: batches are lists of records, and the model tokenises them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from .loading import TrainingLoader, evaluation_loader
from .sampling import RecordSampler

Record = dict[str, Any]


class RecordDataModule(LightningDataModule):
    """Batches of plain records (dicts); text is tokenised by the model, which owns the tokenizer.

    Args:
        batch_size: records a training batch.
        eval_batch_size: records a batch when validating, testing and predicting.
        seed: of the training order.
    """

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(
                f"batch_size and eval_batch_size must be at least 1, got {batch_size} and {eval_batch_size}"
            )
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        #: What `setup` has read, by split.
        self.records: dict[str, list[Record]] = {}

    def fingerprint(self) -> dict[str, str]:
        """A digest of each split that has been read: of its records' content, whichever file they came from."""
        return {split: records_digest(records) for split, records in self.records.items()}

    def _train_loader(self, lengths: Sequence[int] | None = None) -> TrainingLoader:
        """Shuffled; with ``lengths`` a batch holds records of similar length, so that little is spent on padding."""
        records, trainer = self.records["train"], self.trainer
        ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        whole_batch = self.batch_size * ranks
        if len(records) < whole_batch:
            size = f"batch_size={self.batch_size}" + (f" on {ranks} processes" if ranks > 1 else "")
            raise ValueError(
                f"{size} is more than the {len(records)} training records there are; lower it or give more"
            )
        sampler = RecordSampler(records, self.seed, ranks, rank, whole_batch, lengths)
        return TrainingLoader(records, sampler, self.batch_size, list)

    def _eval_loader(self, records: Sequence[Record]) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Batches in the records' order, none if there are none."""
        return evaluation_loader(records, self.eval_batch_size, list) if records else []


def records_digest(records: Sequence[Record]) -> str:
    """SHA-256 of the records' content in this order; where they lie does not count."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(_without_place(record), sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _without_place(record: Record) -> Record:
    known = {key: value for key, value in record.items() if key != "_source"}
    task = known.get("task")
    return {**known, "task": _without_place(task)} if isinstance(task, dict) else known
