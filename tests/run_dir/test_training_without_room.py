"""A disk that is full for some iterations of a fit: the fit ends, and metrics.csv has every row."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import MaskGallery, ReinforceUpdate
from tamis.modules import NoiseMaskPretraining
from tamis.run_dir.events_file import EventsFile
from tamis.run_dir.metrics_file import MetricsFile

Limit = Callable[[int], AbstractContextManager[None]]
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class FullDisk(Callback):
    """Nothing in the run directory can grow from the third batch to the fifth."""

    def __init__(self, limit: Limit, folder: Path) -> None:
        self.limit, self.folder, self.stack = limit, folder, ExitStack()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self.stack.enter_context(self.limit(min(file.stat().st_size for file in self.folder.glob("*.*"))))
        if batch_idx == 5:
            self.stack.close()


def fit(folder: Path, *callbacks: Callback) -> None:
    torch.manual_seed(0)
    images = TensorDataset(torch.randn(28, 3, 32, 32), torch.arange(28) % 3)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu",
        callbacks=[*callbacks, MaskGallery(every_n_iterations=4, images=2), ReinforceUpdate()],
        logger=[EventsFile(folder), MetricsFile(folder)],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=3, grid=4, kernel_size=3, sigma=1.0)
    trainer.fit(module, DataLoader(images, batch_size=4))


def test_a_fit_outlives_a_full_disk(files_of: Limit, tmp_path: Path) -> None:
    fit(tmp_path / "room")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(tmp_path / "full", FullDisk(files_of, tmp_path / "full"))
    files = [str(warning.message).split(" could not be written: File too large")[0] for warning in said]
    for name in ("metrics.csv", "timing.csv", "full/", "iteration_000004.png"):  # TensorBoard's is named by its folder
        assert len([file for file in files if file.endswith(name)]) == 1
    assert (tmp_path / "full" / "metrics.csv").read_bytes() == (tmp_path / "room" / "metrics.csv").read_bytes()
    with (tmp_path / "full" / "timing.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(step) for step in range(1, 8)]
    assert [path.name for path in (tmp_path / "full" / "masks").iterdir()] == ["iteration_000007.png"]
