"""A full disk while callbacks write: training goes on, or a clear error where the file is what the command is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import (
    ClassificationReport,
    CompletionTable,
    MaskGallery,
    ModelExport,
    PreferenceWriter,
    RewardReliability,
    RolloutTable,
)
from tamis.callbacks.pictures import log_picture
from tamis.datamodules import CodeTasks
from tamis.modules import CodePolicy, ImageClassifier, NoiseMaskPretraining
from tamis.rollout import Rollout
from tamis.run_dir.events_file import EventsFile

# TensorBoard's writer has a thread, whose end comes to light in whichever test is next.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
Limit = Callable[[int], AbstractContextManager[None]]


def trainer_in(folder: Path, **options: Any) -> Trainer:
    return Trainer(accelerator="cpu", default_root_dir=str(folder), enable_checkpointing=False, **options)


def append(table: RolloutTable, folder: Path, completions: list[str], module: CodePolicy) -> None:
    """As at the end of an iteration."""
    trainer, records = trainer_in(folder, logger=False), [{"completion": text} for text in completions]
    mask = torch.ones(len(completions), 3, dtype=torch.bool)
    rollout = Rollout(torch.arange(len(mask)), torch.zeros(len(mask), 3), mask, records=records)
    table.on_rollout(trainer, module, rollout)
    module.iteration += 1
    table.on_update_end(trainer, module, rollout, {})


@pytest.fixture(scope="module")
def policy(tiny_model: str) -> CodePolicy:
    return CodePolicy(tiny_model, critic="none", reference=False, max_new_tokens=6)


def written(folder: Path) -> list[str]:
    return [json.loads(line)["completion"] for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_rollouts_without_room_are_left_out_whole(policy: CodePolicy, files_of: Limit, tmp_path: Path) -> None:
    policy.iteration = 0
    table = RolloutTable(every_n_iterations=1)
    append(table, tmp_path, ["a", "b"], policy)
    size = (tmp_path / "rollouts.jsonl").stat().st_size
    with files_of(size + 250), pytest.warns(match=r"rollouts\.jsonl could not be written: File too large"):
        append(table, tmp_path, ["c", "d" * 50], policy)  # the first would have room
    assert (tmp_path / "rollouts.jsonl").stat().st_size == size
    append(table, tmp_path, ["e"], policy)
    assert written(tmp_path) == ["a", "b", "e"]


def test_a_resumed_run_writes_rollouts_behind_the_checkpoint_again(policy: CodePolicy, tmp_path: Path) -> None:
    policy.iteration = 0
    killed = RolloutTable(every_n_iterations=1)
    for text in ("a", "b", "c"):
        append(killed, tmp_path, [text], policy)
    with (tmp_path / "rollouts.jsonl").open("a") as file:
        file.write('{"iteration": 4, "compl')
    policy.iteration = 2
    resumed = RolloutTable(every_n_iterations=1)
    resumed.on_train_start(trainer_in(tmp_path, logger=False), policy)
    append(resumed, tmp_path, ["again"], policy)
    assert written(tmp_path) == ["a", "b", "again"]
    policy.iteration = 1
    shared = RolloutTable(every_n_iterations=1, path=str(tmp_path / "rollouts.jsonl"))
    shared.on_train_start(trainer_in(tmp_path, logger=False), policy)
    assert written(tmp_path) == ["a", "b", "again"]  # other runs may have written into it


def test_a_run_that_begins_again_puts_the_file_aside(policy: CodePolicy, tmp_path: Path) -> None:
    for text in ("a", "b", "c"):  # killed before the first checkpoint, and begun again in the same directory
        policy.iteration = 0
        table = RolloutTable()
        table.on_train_start(trainer_in(tmp_path, logger=False), policy)
        append(table, tmp_path, [text], policy)
    assert written(tmp_path) == ["c"]
    aside = [json.loads((tmp_path / f"rollouts-{number}.jsonl").read_text())["completion"] for number in (1, 2)]
    assert aside == ["a", "b"]


def test_a_picture_without_room_is_left_out(files_of: Limit, tmp_path: Path) -> None:
    module = NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=3, grid=4, kernel_size=3)
    gallery, trainer = MaskGallery(images=2), trainer_in(tmp_path, logger=False)
    images = torch.randn(3, 3, 32, 32)
    gallery.on_train_batch_start(trainer, module, (images, torch.tensor([0, 1, 2])), 0)
    with files_of(2000), pytest.warns(match=r"iteration_000000\.png could not be written: File too large"):
        gallery.on_fit_end(trainer, module)
    assert not list(tmp_path.rglob("*.png*"))


def test_tensorboard_without_room_for_a_picture(files_of: Limit, tmp_path: Path) -> None:
    import io

    from PIL import Image

    logger, picture = EventsFile(tmp_path), io.BytesIO()
    Image.effect_noise((64, 64), 50).save(picture, "png")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    trainer = trainer_in(tmp_path, logger=[logger])

    def log_and_save() -> None:  # the writer's thread may fail at the one or at the other
        log_picture(trainer, "noise", picture.getvalue(), 1)
        logger.save()

    with files_of(2000), pytest.warns(match="TensorBoard"):
        log_and_save()


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_an_export_without_room_leaves_nothing_and_says_so(
    kind: str, policy: CodePolicy, files_of: Limit, tmp_path: Path
) -> None:
    module = policy if kind == "language model" else ImageClassifier("test_resnet", num_classes=2)
    export, trainer = ModelExport(), trainer_in(tmp_path, logger=False)
    export.on_train_start(trainer, module)
    with files_of(100_000), pytest.raises(OSError, match=r"could not be written to .*model: .*make room and resume"):
        export.on_fit_end(trainer, module)
    assert not list(tmp_path.iterdir())
    export.setup(trainer, module, "fit")  # another try is not refused
    export.on_train_start(trainer, module)
    export.on_fit_end(trainer, module)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert list((tmp_path / "model").iterdir())


def test_pairs_without_room_name_the_file(files_of: Limit, policy: CodePolicy, tmp_path: Path) -> None:
    samples = [{"task_id": "t", "prompt": "p", "completion": "x" * 90, "passed": True, "status": "passed"}]
    with files_of(100), pytest.raises(OSError, match=r"samples\.jsonl could not be written: .* sample again"):
        PreferenceWriter().write_on_epoch_end(trainer_in(tmp_path, logger=False), policy, [samples], [[[0]]])
    assert not list(tmp_path.iterdir())


def test_a_report_without_room(files_of: Limit, tmp_path: Path) -> None:
    images: Any = DataLoader(TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 2), batch_size=4)
    module, options = ImageClassifier("test_resnet", num_classes=2), {"logger": False, "enable_progress_bar": False}
    report = ClassificationReport(validation=True)
    with files_of(10), pytest.warns(match=r"val could not be written: .*this validation's report is left out"):
        trainer_in(tmp_path, callbacks=[report], **options).validate(module, images, verbose=False)
    with files_of(10), pytest.raises(OSError, match=r"test could not be written: .*run the test again"):
        trainer_in(tmp_path, callbacks=[report], **options).test(module, images, verbose=False)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_measurement_of_the_reward_without_room(
    files_of: Limit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"task_id": task, "sample": index, "reward": float(index), "passed": index > task, "status": "failed"}
        for task in range(3)
        for index in range(3)
    ]
    with files_of(10), pytest.raises(OSError, match=r"reliability\.json could not be written: .*run the test again"):
        RewardReliability(bins=2, bootstrap=3)._report(rows, tmp_path)
    assert "none" in capsys.readouterr().out  # what was measured has been said
    assert not list(tmp_path.iterdir())


class FullAtTheEnd(CompletionTable):
    """Room for the sandbox, and none for the results."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self.limit = limit

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.limit(10):
            super().on_test_end(trainer, pl_module)


def test_results_without_room(
    policy: CodePolicy, files_of: Limit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"prompt": "def f():\n    #", "entry_point": "f", "test": "def check(f):\n    f()\n"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"task_id": "t", **task}) + "\n")
    trainer = trainer_in(tmp_path / "run", callbacks=[FullAtTheEnd(files_of)], logger=False, enable_progress_bar=False)
    with pytest.raises(OSError, match=r"completions\.jsonl and results\.json could not be written: .*test again"):
        trainer.test(policy, CodeTasks(test=str(tmp_path / "tasks.jsonl")), verbose=False)
    assert "pass@1" in capsys.readouterr().out
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
