"""A run that goes on from any of its checkpoints is the run that was never stopped, to the last bit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor

from tamis.callbacks import (
    EnvironmentUpdate,
    Filtration,
    LastEpochsAverage,
    PolicyCallback,
    PolicyUpdate,
    PPOUpdate,
    ReinforceUpdate,
    RunCheckpoints,
)
from tamis.datamodules import CodeTasks, Instructions, MedMNIST, NoiseAugmentation, Preferences
from tamis.modules import (
    CodePolicy,
    ImageClassifier,
    NoiseMaskPretraining,
    PreferenceOptimization,
    Reward,
    RewardModel,
    SupervisedFineTuning,
)
from tamis.modules.policy import PolicyModule
from tamis.rollout import Rollout
from tamis.run_dir.metrics_file import MetricsFile
from tamis.run_dir.resume import read_checkpoint

_Adam = partial(torch.optim.AdamW, lr=3e-3)


class Letters(Reward):
    """A reward that needs no model and has no ties."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([sum(map(ord, text)) % 101 / 10 for text in completions])


class Diary(PolicyCallback):
    """What was drawn and what was made of it, by iteration; of other modules the loss, by batch."""

    def __init__(self) -> None:
        self.pages: dict[int, dict[str, Any]] = {}

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        page: dict[str, Any] = {"actions": rollout.actions, "rewards": rollout.rewards, "draws": draws(), **stats}
        self.pages[module.iteration] = {name: value for name, value in page.items() if "timing" not in name}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, PolicyModule):
            self.pages[trainer.global_step] = {"loss": outputs["loss"], "draws": draws()}


def draws() -> list[Any]:
    """A number of each global generator, such as dropout would take."""
    return [torch.rand(1), random.random(), float(np.random.rand())]


class Setting(NamedTuple):
    """What a run is made of."""

    module: Callable[[], LightningModule]
    data: Callable[[], LightningDataModule]
    callbacks: Callable[[], list[Callback]] = list
    epochs: int = 2
    options: Mapping[str, Any] = {}


@pytest.fixture(scope="module")
def settings(quickstart: Path, tiny_model: str, pairs: Path, npz: Path) -> dict[str, Setting]:
    tasks = f"{quickstart / 'tasks' / 'train.jsonl'}[:12]"
    policy = partial(CodePolicy, tiny_model, num_samples=4, max_new_tokens=6, policy_optimizer=_Adam, warmup_ratio=0.2)
    masks = partial(NoiseMaskPretraining, "test_resnet", "test_resnet", grid=4, kernel_size=3, decay=0.9)

    def images(workers: int, **options: Any) -> Callable[[], LightningDataModule]:
        noise = NoiseAugmentation("rician", probability=0.5)
        return lambda: MedMNIST(str(npz), batch_size=4, num_workers=workers, noise=noise, **options)

    def updated(update: Callable[[], PolicyUpdate], *others: Callable[[], Callback]) -> Callable[[], list[Callback]]:
        return lambda: [*(other() for other in others), update()]

    demonstrations = str(quickstart / "tasks" / "demonstrations.jsonl")
    return {
        "pf_ppo": Setting(
            lambda: policy(Letters(), max_iterations=5),
            lambda: CodeTasks(tasks, batch_size=4),
            updated(
                partial(PPOUpdate, epochs=2, minibatch_size=4, kl_target=0.01, kl_coef=0.1),
                lambda: Filtration("best_random", keep=2),
            ),
        ),
        "rloo": Setting(
            lambda: policy(Letters(), critic="none", reference=False, max_iterations=4, schedule="cosine"),
            lambda: CodeTasks(tasks, batch_size=4),
            updated(partial(ReinforceUpdate, kl_coef=0.0)),
        ),
        "noise_mask": Setting(
            lambda: masks(masks_per_image=2),
            images(0, sampling="balanced"),
            updated(ReinforceUpdate, lambda: LastEpochsAverage(2)),
            options={"val_check_interval": 2},
        ),
        "official": Setting(
            lambda: masks(objective="official", masks_per_image=1), images(2), updated(EnvironmentUpdate)
        ),
        "random": Setting(lambda: masks(objective="random"), images(0), updated(EnvironmentUpdate)),
        "classifier": Setting(lambda: ImageClassifier("test_resnet"), images(2)),
        "sft": Setting(
            lambda: SupervisedFineTuning(tiny_model, optimizer=_Adam),
            lambda: Instructions(f"{demonstrations}[:24]", f"{demonstrations}[24:32]", batch_size=4),
            options={"accumulate_grad_batches": 2},
        ),
        "reward_model": Setting(
            lambda: RewardModel(tiny_model, optimizer=_Adam), lambda: Preferences(f"{pairs}[:14]", batch_size=4)
        ),
        "dpo": Setting(
            lambda: PreferenceOptimization(tiny_model, optimizer=_Adam),
            lambda: Preferences(f"{pairs}[:12]", 0.0, batch_size=4),
        ),
    }


class Outcome(NamedTuple):
    """What is left of a run."""

    pages: dict[int, dict[str, Any]]
    weights: dict[str, Tensor]
    metrics: dict[str, Tensor]
    optimizers: list[dict[str, Any]]


def run(setting: Setting, folder: Path, checkpoint: Path | None = None) -> Outcome:
    seed_everything(0, workers=True, verbose=False)
    torch.rand(7 if checkpoint else 1)  # a resumed run may have drawn anything before
    module, diary = setting.module(), Diary()
    every = 1 if checkpoint is None else 99  # nobody reads those of a resumed run
    checkpoints = RunCheckpoints(every_n_iterations=every, keep=None)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=setting.epochs,
        callbacks=[diary, *setting.callbacks(), checkpoints],
        logger=MetricsFile(folder, None if checkpoint is None else read_checkpoint(checkpoint).step),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **setting.options,
    )
    trainer.fit(module, setting.data(), ckpt_path=checkpoint, weights_only=True)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    metrics = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("timing/")}
    return Outcome(diary.pages, weights, metrics, [optimizer.state_dict() for optimizer in trainer.optimizers])


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where two nested collections of tensors and numbers are not the same bit for bit."""
    if isinstance(expected, Mapping):
        if found.keys() != expected.keys():
            return [f"{where}: {sorted(map(str, found))} for {sorted(map(str, expected))}"]
        return [text for key in expected for text in differences(found[key], expected[key], f"{where}/{key}")]
    if isinstance(expected, list | tuple):
        parts = zip(found, expected, strict=True)
        return [text for number, pair in enumerate(parts) for text in differences(*pair, f"{where}[{number}]")]
    same = torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected
    return [] if same else [where]


NAMES = ["pf_ppo", "rloo", "noise_mask", "official", "random", "classifier", "sft", "reward_model", "dpo"]


@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_any_checkpoint_changes_no_bit(name: str, settings: dict[str, Setting], tmp_path: Path) -> None:
    setting = settings[name]
    whole = run(setting, tmp_path / "whole")
    found = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    assert len(found) >= len(whole.pages) - 1
    # In the middle of an epoch, at its end, just behind that, and at the end of all.
    for checkpoint in {number: found[number] for number in (0, 2, 3, len(found) - 1) if number < len(found)}.values():
        (tmp_path / checkpoint.name).mkdir()  # as in the directory of a run that was killed much later
        shutil.copy(tmp_path / "whole" / "metrics.csv", tmp_path / checkpoint.name)
        rest = run(setting, tmp_path / checkpoint.name, checkpoint)
        if not rest.pages and setting.epochs * 3 == len(whole.pages):
            continue  # all epochs are done, and Lightning starts nothing
        pages = {number: page for number, page in whole.pages.items() if number >= min(rest.pages, default=99)}
        assert differences(rest.pages, pages) == [], checkpoint.name
        assert differences(rest.weights, whole.weights) == [], checkpoint.name
        assert differences(rest.optimizers, whole.optimizers) == [], checkpoint.name
        logs = [(folder / "metrics.csv").read_bytes() for folder in (tmp_path / "whole", tmp_path / checkpoint.name)]
        assert logs[0] == logs[1], checkpoint.name
        assert len(rest.pages) + int(checkpoint.stem.partition("=")[2]) >= len(whole.pages)
