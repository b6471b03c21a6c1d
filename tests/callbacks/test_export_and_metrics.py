"""The trained model's folder, and the names under which a run is logged."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, ModelExport, PPOUpdate, ReinforceUpdate, RolloutMetrics
from tamis.modules import CodePolicy, Reward
from tamis.modules.language_model import load_causal_lm, load_tokenizer

ROLLOUT = {
    "rollout/reward_mean",
    "rollout/reward_std",
    "rollout/reward_min",
    "rollout/reward_max",
    "rollout/reward_failures",
    "rollout/length_mean",
    "rollout/length_max",
    "rollout/truncated_rate",
    "rollout/eos_rate",
}
KL = {"rollout/kl", "rollout/kl_per_token", "rollout/reward_after_kl"}
FILTER = {"filter/rows_in", "filter/rows_kept", "filter/rows_dropped", "filter/reward_all", "filter/reward_kept"}
POLICY = {"update/policy_loss", "update/entropy", "update/grad_norm_policy", "update/lr_policy"}
PPO = {"update/clip_fraction", "update/approx_kl", "update/ratio_mean", "update/ratio_max"}
PPO |= {"update/ratio_error_first_minibatch", *(f"update/advantage_{name}" for name in ("mean", "std", "abs_max"))}
CRITIC = {"update/value_loss", "update/explained_variance", "update/grad_norm_critic", "update/lr_critic"}
PHASES = ("act", "reward", "filter", "complete", "update", "iteration")
PACE = {"timing/tokens_per_s", "timing/act_tokens_per_s"}
SKIPPED = {"update/skipped_steps", "update/skipped_steps_total"}
LOOP = SKIPPED | {*(f"timing/{phase}_s" for phase in PHASES), *PACE, "iteration", "step"}


class Length(Reward):
    """Characters of a completion."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in completions])


def _trainer(folder: Path, *callbacks: Any, logger: Any = False) -> Trainer:
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _fit(trainer: Trainer, model: str, tasks: list[dict[str, object]], **options: Any) -> CodePolicy:
    module = CodePolicy(model, Length(), max_new_tokens=6, num_samples=4, max_iterations=2, **options)
    trainer.fit(module, DataLoader(tasks[:8], batch_size=4, collate_fn=list))  # type: ignore[arg-type]
    return module


def _logged(folder: Path, model: str, tasks: list[dict[str, object]], *callbacks: Any, **options: Any) -> list[Any]:
    logger = CSVLogger(str(folder), name="", version="")
    _fit(_trainer(folder, *callbacks, logger=logger), model, tasks, **options)
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_pf_ppo_logs_exactly_the_documented_names(
    tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path
) -> None:
    filtration, update = Filtration("best_worst", keep=2), PPOUpdate(epochs=2)
    rows = _logged(tmp_path, tiny_model, tasks, RolloutMetrics(), filtration, update)
    assert set(rows[0]) == ROLLOUT | KL | FILTER | POLICY | PPO | CRITIC | LOOP
    # 2 iterations of 2 epochs with 2 optimisers are 8 optimiser steps; the x-axis counts iterations.
    assert [(float(row["step"]), float(row["iteration"])) for row in rows] == [(1.0, 1.0), (2.0, 2.0)]
    for row in rows:
        assert float(row["filter/rows_in"]) == 16  # 4 tasks, 4 samples
        assert float(row["filter/rows_kept"]) == 8
        assert float(row["filter/reward_all"]) == pytest.approx(float(row["rollout/reward_mean"]))
        assert float(row["rollout/reward_min"]) <= float(row["filter/reward_kept"]) <= float(row["rollout/reward_max"])
        assert all(float(row[name]) > 0 for name in LOOP if name.startswith("timing/"))
    assert float(rows[0]["rollout/kl"]) == pytest.approx(0.0, abs=1e-5)


def test_rloo_without_critic_and_reference_logs_its_own_names(
    tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path
) -> None:
    rows = _logged(tmp_path, tiny_model, tasks, RolloutMetrics(), ReinforceUpdate(), critic="none", reference=False)
    assert set(rows[0]) == ROLLOUT | POLICY | LOOP


def test_the_trained_model_is_left_where_the_next_stage_finds_it(
    tiny_model: str, tasks: list[dict[str, object]], tmp_path: Path
) -> None:
    optimizer: Any = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    module = _fit(
        _trainer(tmp_path, ModelExport(), ReinforceUpdate()),
        tiny_model,
        tasks,
        critic="none",
        policy_optimizer=optimizer,
    )
    exported = load_causal_lm(str(tmp_path / "model")).state_dict()
    start = load_causal_lm(tiny_model).state_dict()
    assert all(torch.equal(exported[name], value) for name, value in module.policy.state_dict().items())
    assert any(not torch.equal(exported[name], value) for name, value in start.items())
    assert load_tokenizer(str(tmp_path / "model")).get_vocab() == load_tokenizer(tiny_model).get_vocab()


def test_a_folder_that_holds_something_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "model.safetensors").write_text("mine")

    class Exporting(BoringModel):
        def export(self, folder: Path) -> None:
            (folder / "mine").write_text("theirs")

    model = Exporting()
    with pytest.raises(FileExistsError, match="taken already holds a model; choose another run_dir or folder"):
        _trainer(tmp_path, ModelExport(str(tmp_path / "taken"))).fit(model)
    assert (tmp_path / "taken" / "model.safetensors").read_text() == "mine"


def test_a_module_without_export_is_refused_before_training(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, ModelExport())
    with pytest.raises(MisconfigurationException, match=r"BoringModel has no export\(folder\); remove ModelExport"):
        trainer.fit(BoringModel())
    assert trainer.global_step == 0
    assert not (tmp_path / "model").exists()


def test_stages_that_train_nothing_export_nothing(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kept").write_text("mine")
    _trainer(tmp_path, ModelExport()).validate(BoringModel(), verbose=False)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["kept"]
