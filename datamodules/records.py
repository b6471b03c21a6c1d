"""The shape that all text datamodules share: batches are lists of records, and the model tokenises them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

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
            raise ValueError(f"batch sizes must be at least 1, got {batch_size} and {eval_batch_size}")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed

    def _train_loader(self, records: Sequence[Record], lengths: Sequence[int] | None = None) -> DataLoader[Any]:
        """Shuffled; with ``lengths`` a batch holds records of similar length, so that little is spent on padding."""
        if len(records) < self.batch_size:
            raise ValueError(f"batch_size={self.batch_size} is more than the {len(records)} training records there are")
        generator = torch.Generator().manual_seed(self.seed)
        sampler: Sampler[int] | None = None
        if lengths is not None:
            from transformers.trainer_pt_utils import LengthGroupedSampler

            sampler = LengthGroupedSampler(self.batch_size, lengths=list(lengths), generator=generator)
        return DataLoader(
            records,  # type: ignore[arg-type] # a sequence is a map-style dataset
            batch_size=self.batch_size,
            shuffle=sampler is None,
            sampler=sampler,
            drop_last=True,
            collate_fn=list,
            generator=generator,
        )

    def _eval_loader(self, records: Sequence[Record]) -> DataLoader[Any]:
        return DataLoader(records, batch_size=self.eval_batch_size, collate_fn=list)  # type: ignore[arg-type]
