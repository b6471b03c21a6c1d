"""The table of training completions: every sampled row, what became of it, and a size that stays in bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, PolicyCallback, ReinforceUpdate, RolloutTable
from tamis.modules import CodePolicy, Reward, UnitTests
from tamis.modules.policy import PolicyModule
from tamis.rollout import Rollout


class Length(Reward):
    """Characters of a completion."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in completions])


class Seen(PolicyCallback):
    """Every rollout that was sampled."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        self.rollouts.append(rollout)
        return rollout


def _fit(folder: Path, model: str, tasks: list[dict[str, object]], *callbacks: Any, **options: Any) -> None:
    options = {"reward": Length(), "num_samples": 4, "max_iterations": 3, "max_new_tokens": 6, **options}
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[*callbacks, Filtration("best_worst", keep=2), ReinforceUpdate(kl_coef=0.1)],
        logger=False,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: Any = DataLoader(tasks[:8], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    trainer.fit(CodePolicy(model, critic="none", **options), loader)


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_every_sampled_row_is_there_with_what_became_of_it(
    tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path
) -> None:
    seen = Seen()
    _fit(tmp_path, tiny_model, tasks, seen, RolloutTable(every_n_iterations=2))
    rows = _read(tmp_path)
    assert [row["iteration"] for row in rows] == [1] * 8 + [3] * 8  # 2 tasks, 4 samples
    sampled = [record for rollout in (seen.rollouts[0], seen.rollouts[2]) for record in rollout.records]
    for row, record in zip(rows, sampled, strict=True):
        assert [row[name] for name in ("task_id", "prompt", "completion")] == [
            record[name] for name in ("task_id", "prompt", "completion")
        ]
        assert row["reward"] == len(row["completion"])
        assert (row["kl"] is not None) == row["kept"]
        assert row["verdict"] is None
    for rollout, part in ((seen.rollouts[0], rows[:8]), (seen.rollouts[2], rows[8:])):
        assert rollout.truncated is not None
        assert [row["finish_reason"] == "length" for row in part] == rollout.truncated.tolist()
        assert {row["finish_reason"] for row in part} <= {"length", "stop"}
        assert [row["length"] for row in part] == rollout.response_mask.sum(dim=1).tolist()
    assert [sum(row["kept"] for row in rows[start : start + 4]) for start in range(0, 16, 4)] == [2] * 4
    assert all(row["kl"] == pytest.approx(0.0, abs=1e-4) for row in rows[:8] if row["kept"])
    for start in range(0, 16, 4):  # best and worst of each prompt
        group = rows[start : start + 4]
        kept = {row["reward"] for row in group if row["kept"]}
        assert kept == {max(row["reward"] for row in group), min(row["reward"] for row in group)}


def test_verdicts_are_in_it_where_tests_were_run(
    tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path
) -> None:
    options = {"reward": UnitTests(isolation="process"), "num_samples": 2, "max_iterations": 1}
    _fit(tmp_path, tiny_model, tasks, RolloutTable(), **options)
    rows = _read(tmp_path)
    assert len(rows) == 4
    assert all((row["verdict"] == "passed") == (row["reward"] == 1.0) for row in rows)
    assert all(isinstance(row["verdict"], str) for row in rows)


def test_size_is_capped_in_rows_and_bytes(tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path) -> None:
    _fit(tmp_path / "rows", tiny_model, tasks, RolloutTable(1, max_rows=3))
    assert [row["iteration"] for row in _read(tmp_path / "rows")] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    with pytest.warns(UserWarning, match="has reached max_megabytes=0.002; it grows no more"):
        _fit(tmp_path / "bytes", tiny_model, tasks, RolloutTable(1, max_megabytes=0.002))
    assert 0 < (tmp_path / "bytes" / "rollouts.jsonl").stat().st_size <= 2000
    assert _read(tmp_path / "bytes")[0]["iteration"] == 1  # whole lines only


def test_a_resumed_run_goes_on_behind_a_line_that_was_cut_off(
    tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere" / "table.jsonl"
    path.parent.mkdir()
    path.write_text('{"iteration": 1}\n{"iterat')
    _fit(tmp_path, tiny_model, tasks, RolloutTable(path=str(path), max_rows=1), max_iterations=1)
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"iteration": 1}', '{"iterat']
    assert json.loads(lines[2])["iteration"] == 1
    assert len(lines) == 3


@pytest.mark.parametrize("options", [{"every_n_iterations": 0}, {"max_rows": 0}, {"max_megabytes": 0}])
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        RolloutTable(**options)


def test_a_task_that_others_share_is_left_as_it_is(tasks: list[dict[str, object]]) -> None:
    reward = UnitTests(isolation="process")
    before = [dict(task) for task in tasks[:2]]
    reward(tasks[:2], ["    return 1\n"] * 2)
    reward.close()
    assert tasks[:2] == before
