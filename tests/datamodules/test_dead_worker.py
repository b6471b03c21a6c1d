"""A loader process that is killed ends the run at once, with its cause."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tamis.datamodules import Phantoms
from tamis.explain import told
from tamis.modules import ImageClassifier


def _loaders() -> set[int]:
    """This process's children that are forks of it."""
    found = set()
    own = Path("/proc/self/cmdline").read_bytes()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and Path(f"/proc/{name}/cmdline").read_bytes() == own:
                found.add(int(name))
        except OSError:  # ended since the listing
            continue
    return found


class Killer(Callback):
    """Kills one of the loader processes after the second step."""

    def __init__(self, older: set[int]) -> None:
        self.older, self.steps, self.at = older, 0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        if self.steps == 2:
            self.at = time.monotonic()
            os.kill(max(_loaders() - self.older), signal.SIGKILL)  # those of the validation are older


@pytest.fixture
def _no_hang() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the run hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_no_hang")
def test_a_killed_loader_process_ends_the_run_with_its_cause(phantoms: Path) -> None:
    older = _loaders()
    killer = Killer(older)
    data = Phantoms(str(phantoms), 30, 15, 15, phantom_size=48, image_size=32, batch_size=2, num_workers=2)
    trainer = Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[killer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*(Killed|exited unexpectedly)") as error:
        trainer.fit(ImageClassifier("test_resnet"), data)
    assert time.monotonic() - killer.at < 30
    assert killer.steps < 30
    assert _loaders() <= older
    text = told(error.value)
    assert text is not None
    assert text.startswith(str(error.value).strip())
    assert "lower --data.num_workers" in text
