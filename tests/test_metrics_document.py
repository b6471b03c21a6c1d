"""docs/metrics.md names exactly what runs log."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import (
    EnvironmentUpdate,
    Filtration,
    ImitationUpdate,
    MaskDiagnostics,
    PolicyCallback,
    PPOUpdate,
    PreferenceUpdate,
    ReinforceUpdate,
    RewardReliability,
    RolloutMetrics,
)
from tamis.datamodules import Preferences
from tamis.functional import LabelKind
from tamis.modules import CodePolicy, ImageClassifier, NoiseMaskPretraining, Reward, RewardModel

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"


class Length(Reward):
    """Characters of a completion."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in completions])


def _fit(
    folder: Path,
    model: str,
    tasks: list[dict[str, object]],
    update: Any,
    selection: Sequence[PolicyCallback] = (Filtration("best_worst", keep=2),),
) -> list[dict[str, str]]:
    loggers = [CSVLogger(str(folder), name="", version=""), TensorBoardLogger(str(folder), name="", version="")]
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[RolloutMetrics(), *selection, update],
        logger=loggers,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = CodePolicy(model, Length(), num_samples=4, max_new_tokens=6, max_iterations=4)
    trainer.fit(module, DataLoader(tasks[:8], batch_size=4, collate_fn=list))  # type: ignore[arg-type]
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _fit_reward_model(folder: Path, model: str, pairs: Path) -> list[dict[str, str]]:
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=1,
        accelerator="cpu",
        logger=CSVLogger(str(folder), name="", version=""),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(RewardModel(model), Preferences(str(pairs), batch_size=4))
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _mask(folder: Path) -> list[dict[str, str]]:
    """What a noise mask logs; `official` has all of it but the regulariser. Its evaluation has a test's names."""
    loader = DataLoader(TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 3), batch_size=4)
    logged: dict[str, str] = {}
    make = partial(NoiseMaskPretraining, "test_resnet", "test_resnet", num_classes=3, grid=4)
    runs: list[tuple[NoiseMaskPretraining, PolicyCallback]] = [
        (make(objective="official"), EnvironmentUpdate()),
        (make(regulariser="entropy"), ReinforceUpdate()),
    ]
    for module, update in runs:
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[
                RolloutMetrics(),
                MaskDiagnostics(images=4, draws=1, gradient_draws=4, gradient_images=4),
                update,
            ],
            logger=CSVLogger(str(folder), name="", version=str(update.__class__.__name__)),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader, loader)
        (tested,) = trainer.test(module, loader, verbose=False)
        with (folder / update.__class__.__name__ / "metrics.csv").open() as file:
            logged |= {name: value for row in csv.DictReader(file) for name, value in row.items() if value}
    validated = {name.replace("test/", "val/") for name in tested}
    assert validated <= set(logged)
    return [{name: value for name, value in logged.items() if name not in validated}]


def _classify(folder: Path) -> list[dict[str, str]]:
    """What a classifier's test logs for each kind of labels, which is what its validation logs under another name."""
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=CSVLogger(str(folder), name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    labels = {"single": torch.arange(4) % 3, "ordinal": torch.arange(4) % 3, "multi": torch.eye(4)[:, :3]}
    logged: dict[str, str] = {}
    for kind in get_args(LabelKind):
        module = ImageClassifier("test_resnet", num_classes=3, label_kind=kind)
        data = DataLoader(TensorDataset(torch.randn(4, 3, 32, 32), labels[kind]), batch_size=4)
        (validated,) = trainer.validate(module, data, verbose=False)
        (tested,) = trainer.test(module, data, verbose=False)
        assert [name.replace("val/", "test/") for name in validated] == list(tested)
        logged |= {name: str(value) for name, value in tested.items()}
    return [logged]


@pytest.fixture(scope="module")
def runs(
    tiny_model: str,
    quickstart: Path,
    pairs: Path,
    tasks: list[dict[str, object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """A run of each kind that logs names of its own."""
    updates = {
        "reward": PPOUpdate(kl_coef=0.1, kl_target=1.0, minibatch_size=4),
        "loss": PPOUpdate(kl_coef=0.1, kl_place="loss", kl_estimator="k2"),
        "reinforce": ReinforceUpdate(),
        "imitation": ImitationUpdate(backward_coef=1.0),
        "preference": PreferenceUpdate(),
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in updates}
    found = {name: (folders[name], _fit(folders[name], tiny_model, tasks, updates[name])) for name in updates}
    folder = tmp_path_factory.mktemp("reward_model")
    found["reward_model"] = (folder, _fit_reward_model(folder, tiny_model, pairs))
    folder = tmp_path_factory.mktemp("mask")
    found["mask"] = (folder, _mask(folder))
    folder = tmp_path_factory.mktemp("classifier")
    found["classifier"] = (folder, _classify(folder))
    folder = tmp_path_factory.mktemp("probe")
    probe = RewardReliability(
        2, bootstrap=10, probe=f"{quickstart / 'tasks' / 'validation.jsonl'}[:3]", every_n_iterations=2
    )
    selection = (probe, Filtration("auto", keep=2))
    return found | {"probe": (folder, _fit(folder, tiny_model, tasks, ReinforceUpdate(), selection))}


def test_every_name_is_documented_and_every_documented_name_is_logged(runs: dict[str, Any]) -> None:
    logged = {name for _, rows in runs.values() for name in rows[0]}
    table = re.findall(r"^\| `([^`]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert len(table) == len(set(table))
    assert logged == set(table)


def test_the_numbers_fit_each_other(runs: dict[str, Any]) -> None:
    for row in runs["reward"][1]:
        value = {name: float(text) for name, text in row.items() if text}
        assert value["rollout/eos_rate"] + value["rollout/truncated_rate"] == pytest.approx(1.0)
        assert value["filter/rows_in"] == value["filter/rows_kept"] + value["filter/rows_dropped"]
        assert value["update/advantage_mean"] == pytest.approx(0.0, abs=1e-4)
        assert value["update/advantage_std"] == pytest.approx(1.0, abs=1e-3)
        assert value["update/advantage_abs_max"] >= 1.0
        penalty = value["update/kl_coef"] * value["rollout/kl"]
        assert value["rollout/reward_after_kl"] == pytest.approx(value["filter/reward_kept"] - penalty, rel=1e-4)
        phases = sum(value[f"timing/{phase}_s"] for phase in ("act", "reward", "filter", "complete", "update"))
        assert value["timing/iteration_s"] == pytest.approx(phases)
        tokens = value["rollout/length_mean"] * value["filter/rows_in"]
        assert value["timing/act_tokens_per_s"] == pytest.approx(tokens / value["timing/act_s"], rel=1e-4)
        assert value["timing/tokens_per_s"] == pytest.approx(tokens / phases, rel=1e-4)


def test_the_rate_is_the_one_that_was_used(runs: dict[str, Any]) -> None:
    """AdamW's 1e-3 falls in a line over four iterations; 3 % of them is no warm-up."""
    rates = [float(row["update/lr_policy"]) for row in runs["reward"][1]]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert rates == [float(row["update/lr_critic"]) for row in runs["reward"][1]]


def test_tensorboard_has_the_histogram_of_the_rewards(runs: dict[str, Any]) -> None:
    events = EventAccumulator(str(runs["reward"][0]), size_guidance={"histograms": 0})
    events.Reload()
    histograms = events.Histograms("rollout/reward")
    assert [event.step for event in histograms] == [1, 2, 3, 4]
    for event, row in zip(histograms, runs["reward"][1], strict=True):
        assert event.histogram_value.num == 16
        assert event.histogram_value.sum / 16 == pytest.approx(float(row["rollout/reward_mean"]), rel=1e-5)
        assert event.histogram_value.max == float(row["rollout/reward_max"])
