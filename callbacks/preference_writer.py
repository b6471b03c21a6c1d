"""Preference pairs from judged samples."""

from __future__ import annotations

import difflib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

PairChoice = Literal["all", "max_edit_distance"]


class PreferenceWriter(BasePredictionWriter):
    """Under ``tamis predict``: write pairs (passed above failed) and all samples as JSONL files.

    Args:
        folder: where ``pairs.jsonl`` and ``samples.jsonl`` go; ``None`` is the run directory. Existing files are an
            error.
        pairs: ``all`` pairs of a prompt's distinct passing and failing samples, or the one with the
            ``max_edit_distance`` (the paper's choice, after Smaug).
        max_pairs_per_prompt: limit for ``all``; the first ones in sampling order.
    """

    def __init__(self, folder: str | None = None, pairs: PairChoice = "all", max_pairs_per_prompt: int = 6) -> None:
        super().__init__(write_interval="epoch")
        self.folder, self.pairs, self.max_pairs_per_prompt = folder, pairs, max_pairs_per_prompt

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to overwrite before anything is sampled."""
        for name in ("pairs.jsonl", "samples.jsonl"):
            if stage == "predict" and (self._folder(trainer) / name).exists():
                raise FileExistsError(f"{self._folder(trainer) / name} exists; choose another folder or remove it")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Group the samples by task and write both files."""
        samples = [sample for batch in predictions for sample in batch]
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for sample in samples:
            groups[str(sample["task_id"])].append(sample)
        pairs = [pair for group in groups.values() for pair in self.choose(group)]
        folder = self._folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        keys = ("task_id", "prompt", "completion", "passed", "status", "truncated", "reward")
        _write(folder / "samples.jsonl", [{key: sample[key] for key in keys} for sample in samples])
        _write(folder / "pairs.jsonl", pairs)
        passed = sum(sample["passed"] for sample in samples) / max(len(samples), 1)
        rank_zero_info(
            f"{folder / 'pairs.jsonl'}: {len(pairs)} pairs from {len(groups)} prompts; "
            f"{passed:.1%} of {len(samples)} samples passed their tests"
        )

    def choose(self, group: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The pairs of one task's samples, none if all passed or all failed. The sandbox's own losses are left out."""
        group = [sample for sample in group if sample["status"] != "internal"]
        passed = list(dict.fromkeys(sample["completion"] for sample in group if sample["passed"]))
        failed = list(dict.fromkeys(sample["completion"] for sample in group if not sample["passed"]))
        pairs = list(itertools.product(passed, failed))
        if self.pairs == "max_edit_distance":
            pairs = sorted(pairs, key=lambda pair: _similarity(*pair))[:1]
        return [
            {"task_id": group[0]["task_id"], "prompt": group[0]["prompt"], "chosen": good, "rejected": bad}
            for good, bad in pairs[: self.max_pairs_per_prompt]
        ]

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir)


def _similarity(first: str, second: str) -> float:
    """Share of common characters; ``autojunk`` would leave the frequent ones of a long text out."""
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, path)
