"""Whatever changes in callbacks and modules while they train is in a checkpoint, or is named here with a reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tamis.callbacks import (
    Filtration,
    LastEpochsAverage,
    MaskDiagnostics,
    MaskGallery,
    PPOUpdate,
    ReinforceUpdate,
    RewardReliability,
    RolloutMetrics,
    RolloutTable,
)
from tamis.datamodules import MedMNIST
from tamis.modules import (
    CodePolicy,
    ImageClassifier,
    NoiseMaskPretraining,
    PreferenceOptimization,
    PythonReward,
    RewardModel,
    SupervisedFineTuning,
)

from .turned import pictures, words
from .turned.learning import QUIET
from .turned.turning import same

#: Attributes that change and need not come back, with the reason.
FLEETING = {
    "_seen": "where the last step stood, which an error names",
    "_kept_buffers": "a copy of buffers for the length of a step",
    "_judged": "samples of a validation, which is over",
    "_held_out": "of a validation, which is over",
    "_records": "read from files at every start",
    "_sampled": "for the length of an iteration",
}


class Scene(NamedTuple):
    """A run with callbacks of which there are two each.

    Args:
        module: makes it.
        callbacks: makes them.
        data: for ``Trainer.fit``.
        stop: the step (or iteration) after which the checkpoint is written.
        epochs: of the whole run.
        changes: some of what is to have changed by then, so that the test looks at something.
    """

    module: Callable[[], LightningModule]
    callbacks: Callable[[], list[Callback]]
    data: Mapping[str, Any]
    stop: int
    epochs: int
    changes: set[str]


class Watch(Callback):
    """Looks at everything before the first step, and after ``stop`` steps, when it writes a checkpoint.

    Without a path it looks once, at the start, and ends the run.
    """

    def __init__(self, stop: int, path: Path | None) -> None:
        self.stop, self.path, self.steps = stop, path, 0
        self.looks: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.looks.append(_everything(trainer, pl_module))
        trainer.should_stop = self.path is None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.steps += 1
        if self.steps == self.stop and self.path is not None:
            self.looks.append(_everything(trainer, pl_module))
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def _everything(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """All attributes of the run's callbacks, and those of its modules that are no parameters or buffers."""
    internals = vars(LightningModule()).keys() | {"training"}
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        if type(part).__module__.startswith("tamis."):
            own = {key: value for key, value in vars(part).items() if key not in internals}
            found |= {f"{name or type(part).__name__}.{key}": value for key, value in _plain(own)}
    for number, callback in enumerate(trainer.callbacks):  # type: ignore[attr-defined]
        if type(callback).__module__.startswith("tamis."):
            found |= {f"{type(callback).__name__} {number}.{k}": value for k, value in _plain(vars(callback))}
    return found


def _plain(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Numbers, texts, tensors and lists of them, copied; those inside objects of ours by path."""
    for name, value in attributes.items():
        if isinstance(value, nn.Module):
            yield name, {key: tensor.detach().clone() for key, tensor in value.state_dict().items()}
        elif hasattr(value, "__dict__") and type(value).__module__.startswith("tamis."):
            yield from ((f"{name}.{key}", inner) for key, inner in _plain(vars(value)))
        else:
            yield name, _copied(value)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _length(prompts: list[str], completions: list[str]) -> list[float]:
    return [float(len(text) % 7) for text in completions]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    images = pictures.material(tmp_path_factory.mktemp("images"))
    texts = words.material(tmp_path_factory.mktemp("texts"))
    probe = tmp_path_factory.mktemp("probe") / "tasks.jsonl"
    words.write_tasks(probe, texts.records)
    pairs = {"train_dataloaders": words.loader(texts.pairs, 2), "val_dataloaders": words.loader(texts.pairs[:4], 2)}
    tasks = {"train_dataloaders": words.loader(texts.records, 2), "val_dataloaders": words.loader(texts.records[:2], 2)}

    def mask() -> NoiseMaskPretraining:
        small = {"backbone": "test_resnet", "policy_backbone": "test_resnet", "grid": 4, "kernel_size": 5}
        return NoiseMaskPretraining(**small, sigma=1.5, num_classes=None)  # type: ignore[arg-type]

    def policy() -> CodePolicy:
        return CodePolicy(
            texts.model,
            PythonReward(_length),
            num_samples=3,
            max_new_tokens=4,
            workers=1,
            isolation="process",
            max_iterations=9,
        )

    def watch(tasks: int) -> RewardReliability:
        return RewardReliability(bins=2, probe=f"{probe}[:{tasks}]", every_n_iterations=2, bootstrap=5)

    sizes: dict[str, Any] = {"images": 4, "draws": 1, "gradient_draws": 0}
    npz = {"datamodule": MedMNIST(str(images.npz), batch_size=4, data_seed=0)}
    return {
        "noise mask": Scene(
            mask,
            lambda: [
                MaskGallery(every_n_iterations=4, images=1),
                MaskGallery(images=2),
                RolloutMetrics(),
                MaskDiagnostics(**sizes),
                MaskDiagnostics(**sizes, seed=1),
                ReinforceUpdate("running_mean"),
            ],
            npz,
            stop=5,
            epochs=3,
            changes={
                "NoiseMaskPretraining.iteration",
                "MaskGallery 0._examples",
                "MaskGallery 0._drawn_at",
                "MaskGallery 1._examples",
                "MaskDiagnostics 3.twin",
                "MaskDiagnostics 4.last",
                "ReinforceUpdate 5._running_mean",
            },
        ),
        "classifier": Scene(
            lambda: ImageClassifier("test_resnet"),
            lambda: [LastEpochsAverage(2)],
            npz,
            stop=8,
            epochs=3,
            changes={"LastEpochsAverage 0._mean", "LastEpochsAverage 0._averaged"},
        ),
        "program": Scene(
            policy,
            lambda: [RolloutTable(), watch(4), watch(3), Filtration("best_worst"), PPOUpdate(kl_target=0.5)],
            tasks,
            stop=3,
            epochs=9,
            changes={
                "CodePolicy.iteration",
                "RewardReliability 1.probed.tasks",
                "RewardReliability 2.probed.tasks",
                "RewardReliability 2._watch.best",
                "PPOUpdate 4.kl_coef",
            },
        ),
        "filter": Scene(
            policy,
            lambda: [watch(4), Filtration("auto", keep=2), Filtration("auto", keep=1), ReinforceUpdate("none")],
            tasks,
            stop=3,
            epochs=9,
            changes={"Filtration 1._measured", "Filtration 2._measured"},
        ),
        "reward": Scene(
            lambda: RewardModel(texts.model),
            lambda: [],
            pairs,
            stop=5,
            epochs=2,
            changes={"RewardModel._normalised_at", "model.reward_mean"},
        ),
        "tuning": Scene(lambda: SupervisedFineTuning(texts.model), lambda: [], pairs, stop=5, epochs=2, changes=set()),
        "preference": Scene(
            lambda: PreferenceOptimization(texts.model), lambda: [], pairs, stop=5, epochs=2, changes=set()
        ),
    }


def _run(scene: Scene, folder: Path, watch: Watch, checkpoint: Path | None = None) -> None:
    callbacks = [*scene.callbacks(), watch]
    trainer = Trainer(max_epochs=scene.epochs, callbacks=callbacks, default_root_dir=folder, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(scene.module(), **scene.data, ckpt_path=checkpoint, weights_only=True)


@pytest.mark.parametrize("name", ["noise mask", "classifier", "program", "filter", "reward", "tuning", "preference"])
def test_what_changes_in_training_comes_back(scenes: dict[str, Scene], name: str, tmp_path: Path) -> None:
    """Twice each class of callback, with other options: each instance gets its own state."""
    scene, path = scenes[name], tmp_path / "last.ckpt"
    torch.manual_seed(0)
    before = Watch(scene.stop, path)
    _run(scene, tmp_path / "before", before)
    torch.manual_seed(1)
    after = Watch(0, None)
    _run(scene, tmp_path / "after", after, path)
    start, saved = before.looks
    changed = {key for key in start.keys() | saved.keys() if not same(start.get(key), saved.get(key))}
    assert scene.changes <= changed
    kept = {key for key in changed if not set(key.split(".")) & FLEETING.keys()}
    (restored,) = after.looks
    lost = {key: (saved.get(key), restored.get(key)) for key in kept if not same(saved.get(key), restored.get(key))}
    assert not lost


def test_two_averages_of_one_model_are_refused() -> None:
    trainer = Trainer(max_epochs=3, callbacks=[LastEpochsAverage(1), LastEpochsAverage(2)], **QUIET)
    nothing: Any = torch.utils.data.DataLoader([])  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match="two LastEpochsAverage"):
        trainer.fit(ImageClassifier("test_resnet", 3), nothing)
