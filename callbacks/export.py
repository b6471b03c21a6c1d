"""Leaving a trained model where the next stage finds it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol, runtime_checkable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..modules.sharding import is_sharded


@runtime_checkable
class Exportable(Protocol):
    """A module that can write itself into a folder."""

    def export(self, folder: Path) -> None:
        """Write the trained model."""


class ModelExport(Callback):
    """At the end of ``fit``, write the trained model into ``<run directory>/model`` in its field's usual format.

    Language and reward models become folders for ``from_pretrained``, classifiers a plain state dict. The folder is
    there when all of it is written, and not before.

    Args:
        folder: another place; an existing folder that is not empty is an error, unless the run goes on from a
            checkpoint: then it is this run's earlier end, which the new one replaces.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that writes nothing before any time is spent."""
        if stage == "fit" and not isinstance(pl_module, Exportable):
            raise MisconfigurationException(f"{type(pl_module).__name__} has no export(folder); remove ModelExport")
        self._trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to overwrite before any time is spent; only by now a trainer tells that it goes on."""
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._refuse_model_of_another_run(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There will be something to write, unless a resumed run has no epoch left."""
        self._refuse_model_of_another_run(trainer)
        self._trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the model once, on rank 0; where its weights are sharded, the other ranks give theirs."""
        if not isinstance(pl_module, Exportable) or not self._trained:
            return
        folder = self._folder(trainer)
        if trainer.is_global_zero:
            _export(pl_module, folder)
            rank_zero_info(f"Model written to {folder}")
        elif is_sharded(pl_module):
            pl_module.export(folder)  # gives its part, and writes nothing

    def _refuse_model_of_another_run(self, trainer: Trainer) -> None:
        folder = self._folder(trainer)
        if trainer.ckpt_path is None and folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} already holds a model; choose another run_dir or folder, or remove it")

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "model"


def _export(module: Exportable, folder: Path) -> None:
    """Write beside the folder and rename: half a model would be found by the next stage, and refuse the next try."""
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        module.export(partial)
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not _of_the_disk(error):
            raise
        raise OSError(
            f"the trained model could not be written to {folder}: {error}. The training is done, and the run's last "
            "checkpoint holds the model if there is one: make room and resume the run, which writes the model again."
        ) from error


def _of_the_disk(error: Exception) -> bool:
    """Torch and safetensors have exceptions of their own for a disk that takes no more."""
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError) or "inline_container.cc" in str(error)
