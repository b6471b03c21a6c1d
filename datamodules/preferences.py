"""Preference pairs for reward models and for preference optimisation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader

from .jsonl import check_texts, read_jsonl
from .records import Record, RecordDataModule


class Preferences(RecordDataModule):
    """Pairs from JSONL rows with ``prompt``, ``chosen`` and ``rejected`` (and ``margin``, if wanted), split by prompt.

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

    def setup(self, stage: str) -> None:
        """Read and split the file."""
        train: list[Record] = []
        validation: list[Record] = []
        for row in read_jsonl(self.path, required=("prompt", "chosen", "rejected")):
            check_pair(row)
            # A checksum of the prompt, not Python's hash, which changes from process to process.
            held_out = zlib.crc32(row["prompt"].encode()) / 2**32 < self.validation_share
            (validation if held_out else train).append(row)
        self._check_split(train, validation)
        self.records = {"train": train, "validation": validation}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of pairs of similar length."""
        lengths = [len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) for row in self.records["train"]]
        return self._train_loader(lengths)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Pairs of held-out prompts."""
        return self._eval_loader(self.records["validation"])

    def _check_split(self, train: list[Record], validation: list[Record]) -> None:
        if self.validation_share > 0 and not (train and validation):
            prompts = len({row["prompt"] for row in train + validation})
            raise ValueError(
                f"{self.path}: the split by prompt puts all {prompts} prompts on one side "
                f"({len(train)} pairs to train on, {len(validation)} held out) with "
                f"validation_share={self.validation_share}. Give pairs of more prompts, change the share, or set it to "
                "0 to train on everything."
            )


def check_pair(row: Mapping[str, Any]) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        ValueError: naming file and line, for a text that is missing, empty or no text, for two answers that are the
            same, and for a margin that is no number.
    """
    chat = "write a chat as the text of its last turn, and let prompt_format: chat put the template around it"
    check_texts(row, ("prompt", "chosen", "rejected"), chat)
    if row["chosen"] == row["rejected"]:
        raise ValueError(f"{row['_source']}: chosen and rejected are the same text; drop the pair")
    margin = row.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise ValueError(
            f"{row['_source']}: margin must be a number of at least 0, got {margin!r}; leave it out to have the "
            "model's own"
        )
