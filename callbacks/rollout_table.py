"""The table of training completions: what a policy wrote, what it got for it, and what was learned from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..functional import kl_divergence
from ..modules.policy import PolicyCallback, PolicyModule
from ..rollout import Rollout
from ..run_dir.writing import append_whole, tolerate_full_disk, write_whole

ROLLOUTS = "rollouts.jsonl"
Row = dict[str, Any]


class RolloutTable(PolicyCallback):
    """Append completions of training to ``rollouts.jsonl``, one JSON object a line, as the first process sampled them.

    List it before a filter (the command line does that), so that it sees the responses that are dropped too: they have
    ``kept`` false and no KL, because nothing was computed for them. Rewards are the scores before any KL penalty;
    ``verdict`` is there where the reward ran the tests. A run that is killed leaves whole lines. A resumed one drops
    those of iterations that its checkpoint does not know, which it writes again; one that begins renames a file that is
    there. In a file at another ``path``, which may be other runs', too, both go on at the end. Without room on the
    disk an entry is left out, with a warning.

    Args:
        every_n_iterations: iterations from one entry to the next; the first iteration is always in it.
        max_rows: rows an entry, the first of the batch, so that a prompt's responses stay together; ``None`` is all.
        max_megabytes: size at which the file stops growing.
        path: of the file; ``None`` is ``rollouts.jsonl`` in the run directory.
    """

    def __init__(
        self,
        every_n_iterations: int = 10,
        max_rows: int | None = 50,
        max_megabytes: float = 100.0,
        path: str | None = None,
    ) -> None:
        if every_n_iterations < 1 or (max_rows is not None and max_rows < 1) or max_megabytes <= 0:
            raise ValueError(
                "every_n_iterations and max_rows must be at least 1 (max_rows may be null: all) and max_megabytes "
                f"above 0, got {every_n_iterations}, {max_rows} and {max_megabytes}"
            )
        self.every_n_iterations, self.max_rows = every_n_iterations, max_rows
        self.max_megabytes, self.path = max_megabytes, path
        self._sampled: Rollout | None = None
        self._full = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder in order, before anything is sampled."""
        path = self._path(trainer)
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.path is None and isinstance(pl_module, PolicyModule):
                _make_way(path, pl_module.iteration)
            _end_last_line(path)

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Remember what was sampled until it is known what is kept of it."""
        due = module.iteration % self.every_n_iterations == 0 and not self._full
        if due and trainer.is_global_zero and rollout.records:
            self._sampled = rollout
        return rollout

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        """Write the rows of this iteration."""
        sampled, self._sampled = self._sampled, None
        if sampled is not None:
            self._append(self._path(trainer), _rows(sampled, rollout, module.iteration, self.max_rows))

    def _append(self, path: Path, rows: list[Row]) -> None:
        lines = [(json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace") for row in rows]
        room = self.max_megabytes * 1e6 - (path.stat().st_size if path.exists() else 0)
        whole = sum(size <= room for size in accumulate(map(len, lines)))
        with tolerate_full_disk(path, "the completions of this iteration are left out."):
            append_whole(path, b"".join(lines[:whole]))
        if whole < len(lines):
            self._full = True
            rank_zero_warn(f"{path} has reached max_megabytes={self.max_megabytes}; it grows no more")

    def _path(self, trainer: Trainer) -> Path:
        return Path(self.path) if self.path else Path(trainer.default_root_dir) / ROLLOUTS


def _rows(sampled: Rollout, kept: Rollout, iteration: int, limit: int | None) -> list[Row]:
    if kept.kept is not None:  # marked, not dropped
        kept = kept.select(kept.kept.nonzero().squeeze(1))
    kls: dict[int, float | None] = {id(record): None for record in kept.records}
    if kept.log_probs is not None and kept.ref_log_probs is not None:
        kl = kl_divergence(kept.log_probs.detach(), kept.ref_log_probs, "k1") * kept.response_mask
        kls = {id(record): value for record, value in zip(kept.records, kl.sum(dim=1).tolist(), strict=True)}
    lengths = sampled.response_mask.sum(dim=1).tolist()
    rewards = [None] * len(lengths) if sampled.rewards is None else sampled.rewards.detach().tolist()
    cut_off = sampled.truncated.tolist() if sampled.truncated is not None else []
    reasons: list[str | None] = ["length" if cut else "stop" for cut in cut_off]
    reasons = reasons or [None] * len(lengths)
    return [
        {
            "iteration": iteration,
            "task_id": record.get("task_id"),
            "prompt": record.get("prompt"),
            "completion": record.get("completion"),
            "reward": rewards[row],
            "verdict": record.get("verdict"),
            "kept": id(record) in kls,
            "kl": kls.get(id(record)),
            "length": lengths[row],
            "finish_reason": reasons[row],
        }
        for row, record in enumerate(sampled.records[:limit])
    ]


def _end_last_line(path: Path) -> None:
    """Close a line that a machine's end cut off, so that the next one stays readable."""
    if path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("ab") as file:
            file.write(b"\n")


def _make_way(path: Path, iteration: int) -> None:
    """Keep the whole lines up to an iteration; a run that begins puts another one's file aside."""
    content = path.read_bytes() if path.is_file() else b""
    if iteration == 0 and content:
        os.replace(path, _free_name(path))
        return
    lines = content.splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["iteration"] <= iteration]
    if len(kept) < len(lines):
        write_whole(path, b"".join(kept))


def _free_name(path: Path) -> Path:
    """``rollouts-<k>.jsonl`` with the smallest free k."""
    return next(
        free for number in count(1) if not (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists()
    )
