"""Preference pairs for reward models."""

from __future__ import annotations

import zlib
from typing import Any

from torch.utils.data import DataLoader

from .jsonl import read_jsonl
from .records import Record, RecordDataModule


class Preferences(RecordDataModule):
    """Pairs from JSONL rows with ``prompt``, ``chosen`` and ``rejected``, split by prompt.

    All pairs of a prompt fall on one side of the split, so that held-out accuracy is about unseen prompts.

    Args:
        path: file of pairs; may end in a range.
        validation_share: share of the prompts held out, in [0, 1).
        batch_size: pairs a training batch.
        eval_batch_size: pairs a batch when validating.
        seed: of the training order.
    """

    def __init__(
        self,
        path: str,
        validation_share: float = 0.1,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        if not 0 <= validation_share < 1:
            raise ValueError(f"validation_share must lie in [0, 1), got {validation_share}")
        self.path, self.validation_share = path, validation_share
        self.train: list[Record] = []
        self.validation: list[Record] = []

    def setup(self, stage: str) -> None:
        """Read and split the file."""
        self.train, self.validation = [], []
        for row in read_jsonl(self.path, required=("prompt", "chosen", "rejected")):
            if row["chosen"] == row["rejected"]:
                raise ValueError(f"{row['_source']}: chosen and rejected are the same text; drop the pair")
            # A checksum of the prompt, not Python's hash, which changes from process to process.
            held_out = zlib.crc32(row["prompt"].encode()) / 2**32 < self.validation_share
            (self.validation if held_out else self.train).append(row)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of pairs of similar length."""
        lengths = [len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) for row in self.train]
        return self._train_loader(self.train, lengths)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Pairs of held-out prompts."""
        return self._eval_loader(self.validation) if self.validation else []
