"""Preference pairs from judged samples."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ..modules.code_evaluation import gather
from ..run_dir.writing import name_the_file, write_whole
from .pair_choice import PairChoice, PairLabel, Sample, candidates, choose_pairs

_SAMPLE_KEYS = ("task_id", "prompt", "completion", "passed", "status", "truncated", "reward")


class PreferenceWriter(BasePredictionWriter):
    """Under ``tamis predict``: write pairs (the better sample as ``chosen``) and all samples as JSONL files.

    On several ranks the first one writes all ranks' samples, in the order of the tasks.

    Args:
        folder: where ``pairs.jsonl`` and ``samples.jsonl`` go; ``None`` is the run directory. Existing files are an
            error.
        pairs: ``all`` pairs of a prompt, or one of them: ``max_edit_distance``, the pair that differs in most
            characters (the paper's choice); ``random``; or ``hardest``, the pair whose better sample is least ahead
            in reward, or furthest behind: the passing sample of lowest and the failing one of highest reward.
        label: which sample of a pair is the better one: by ``tests`` the one that passes, by ``reward`` the one of
            higher reward, as in iterative DPO.
        max_pairs_per_prompt: limit for ``all``; the first ones in sampling order.
        seed: of ``random``; a prompt's pair hangs on it and the task's id only.
    """

    def __init__(
        self,
        folder: str | None = None,
        pairs: PairChoice = "all",
        label: PairLabel = "tests",
        max_pairs_per_prompt: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(write_interval="epoch")
        if pairs not in get_args(PairChoice) or label not in get_args(PairLabel):
            raise ValueError(
                f"pairs must be one of {get_args(PairChoice)} and label one of {get_args(PairLabel)}, got "
                f"{pairs!r} and {label!r}"
            )
        if max_pairs_per_prompt < 1:
            raise ValueError(f"max_pairs_per_prompt must be at least 1, got {max_pairs_per_prompt}")
        self.folder, self.max_pairs_per_prompt, self.seed = folder, max_pairs_per_prompt, seed
        self.pairs: PairChoice = pairs
        self.label: PairLabel = label

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to overwrite, or to choose by a reward that is not there, before anything is sampled."""
        if stage != "predict":
            return
        for name in ("pairs.jsonl", "samples.jsonl"):
            if (self._folder(trainer) / name).exists():
                raise FileExistsError(f"{self._folder(trainer) / name} exists; choose another folder or remove it")
        needs_reward = self.pairs == "hardest" or self.label == "reward"
        if needs_reward and getattr(pl_module, "reward_function", None) is None:
            raise ValueError(
                f"pairs={self.pairs} with label={self.label} goes by the samples' rewards, and the model has none: "
                "`--model.reward LearnedReward --model.reward.model_name_or_path FOLDER`, or another choice of pairs"
            )

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Collect all ranks' samples; the first rank groups them by task and writes both files."""
        samples = in_order(gather(_indexed(predictions, batch_indices)))
        if not trainer.is_global_zero:
            return
        folder = self._folder(trainer)
        # The samples cost the time, so they are on the disk before anything is made of them.
        _write(folder / "samples.jsonl", [{key: sample.get(key) for key in _SAMPLE_KEYS} for sample in samples])
        groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[str(sample["task_id"]), sample["prompt"]].append(sample)
        pairs = [pair for group in groups.values() for pair in self.choose(group)]
        _write(folder / "pairs.jsonl", pairs)
        passed = sum(sample["passed"] for sample in samples) / max(len(samples), 1)
        rank_zero_info(
            f"{folder / 'pairs.jsonl'}: {len(pairs)} pairs from {len(groups)} prompts; "
            f"{passed:.1%} of {len(samples)} samples passed their tests"
        )
        if not pairs:
            rank_zero_warn(
                "no prompt gave a pair: in each of them all samples are equally good. Sample more a prompt "
                "(num_samples), hotter (temperature), or other tasks."
            )

    def choose(self, group: Sequence[Sample]) -> list[dict[str, Any]]:
        """The pairs of one task's samples; none where no sample is better than another."""
        pairs = choose_pairs(candidates(group, self.label), self.pairs, f"{self.seed}/{group[0]['task_id']}")
        return [
            {
                "task_id": group[0]["task_id"],
                "prompt": group[0]["prompt"],
                "chosen": pair.good["completion"],
                "rejected": pair.bad["completion"],
            }
            for pair in pairs[: self.max_pairs_per_prompt]
        ]

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir)


def _indexed(predictions: Sequence[Any], batch_indices: Sequence[Any]) -> list[tuple[int, Any]]:
    """Each record's samples with its number in the data, as far as Lightning knows it."""
    rows: list[tuple[int, Any]] = []
    flat = [batch for loader in batch_indices for batch in loader]
    for number, batch in enumerate(predictions):
        indices = flat[number] if number < len(flat) else []
        if not indices or len(batch) % len(indices):  # a loader whose order Lightning does not see
            indices = [number]
        each = len(batch) // len(indices)
        rows += [(index, batch[place * each : (place + 1) * each]) for place, index in enumerate(indices)]
    return rows


def in_order(parts: Sequence[Sequence[tuple[int, Any]]]) -> list[Any]:
    """All ranks' samples in the order of the data, whoever drew them."""
    rows = sorted((row for part in parts for row in part), key=lambda row: row[0])
    return [sample for _, samples in rows for sample in samples]


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with name_the_file(path, "Make room and sample again."):
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
