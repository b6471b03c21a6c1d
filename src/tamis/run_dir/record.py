"""The resolved configuration in the run directory, written once everything has been set up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .writing import write_whole


class RunRecord(Callback):
    """Write ``config.yaml`` when a run begins, and ``config-<k>.yaml`` when it goes on in the same directory.

    A run that fails in its set-up has then left nothing, and its directory can be used again.

    Args:
        run_dir: of the run.
        config: YAML of the resolved configuration.
        also: written at the same moment on rank 0.
    """

    def __init__(self, run_dir: Path, config: str, also: Callable[[Trainer], None]) -> None:
        self.run_dir, self.config, self.also = run_dir, config, also
        self._written = False

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Before the first batch, by when modules have looked at their data, too."""
        self._write(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first batch."""
        if trainer.state.fn == "validate":
            self._write(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first batch."""
        self._write(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first batch."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and not self._written:
            self._written = True
            write_whole(next_config(self.run_dir), self.config)
            self.also(trainer)


def next_config(run_dir: Path) -> Path:
    """``config.yaml``, or ``config-<k>.yaml`` with the smallest free k from 2 on."""
    path, number = run_dir / "config.yaml", 1
    while path.exists():
        number += 1
        path = run_dir / f"config-{number}.yaml"
    return path
