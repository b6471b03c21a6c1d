"""The mean of the last epochs' weights as the model that a fit leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

Weights = dict[str, Tensor]
_KEY = "last_epochs_average"


class LastEpochsAverage(Callback):
    """Uniform mean of the models after each of the last epochs (the noise mask's released code: 3 of 90).

    Floating-point tensors are averaged, batch normalisation's running statistics among them; integers, such as its
    counters, are the last epoch's. Training itself goes on with its own weights. Of the mean so far are, from the first
    averaged epoch on: validation, ``state_dict`` in checkpoints (training's own weights lie beside it, and a resumed
    run goes on with both), and after the fit the model that is exported and tested.

    Lightning's `WeightAveraging` copies the model before a module with ``setup`` has built it, validates the untrained
    copy until the averaging begins, and takes an epoch's weights only after its validation.

    Args:
        epochs: how many; the trainer's ``max_epochs`` must say which are the last.
    """

    def __init__(self, epochs: int = 3) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}; 1 leaves the last epoch's weights as they are")
        self.epochs = epochs
        self._averaged: list[int] = []
        self._mean: Weights = {}
        self._own: Weights = {}  # training's weights, while the module holds the mean

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a fit of which nobody knows the last epochs, or that has fewer."""
        if stage != "fit":
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, LastEpochsAverage) for callback in callbacks) > 1:
            raise MisconfigurationException(
                "a fit leaves one model, and two LastEpochsAverage would each make another mean of it; keep one of them"
            )
        limit = trainer.max_epochs
        if limit is None or limit < self.epochs:
            raise MisconfigurationException(
                f"LastEpochsAverage takes the last {self.epochs} epochs, but trainer.max_epochs is {limit}; "
                "set max_epochs to at least as many, or lower epochs"
            )
        for checkpoint in trainer.checkpoint_callbacks:
            if getattr(checkpoint, "save_weights_only", False):
                raise MisconfigurationException(
                    "save_weights_only keeps no callback's state, so the mean of LastEpochsAverage would be lost; "
                    "leave it out of the ModelCheckpoint"
                )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Take the weights after an epoch's last step, before the epoch's validation."""
        epoch = trainer.current_epoch
        if trainer.is_last_batch and epoch >= self._first(trainer):
            self._averaged.append(epoch)
            update_mean(self._mean, weights_of(pl_module), len(self._averaged))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the mean be what is validated."""
        if trainer.state.fn == TrainerFn.FITTING and self._averaged:
            self._own = {name: tensor.clone() for name, tensor in weights_of(pl_module).items()}
            load_floats(pl_module, self._mean)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with training's own weights."""
        if self._own:
            load_floats(pl_module, self._own)
            self._own = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the mean in the module."""
        if not self._averaged:
            rank_zero_warn(f"training stopped before the last {self.epochs} epochs; LastEpochsAverage averaged nothing")
            return
        self._own = {name: tensor.clone() for name, tensor in weights_of(pl_module).items()}
        load_floats(pl_module, self._mean)
        numbers = ", ".join(str(epoch) for epoch in self._averaged)
        rank_zero_info(f"The model is the mean of the weights after epochs {numbers} (counted from 0)")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Another fit begins afresh."""
        self._averaged, self._mean, self._own = [], {}, {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The mean as the checkpoint's model, training's own weights beside it."""
        if self._averaged and trainer.state.fn == TrainerFn.FITTING:
            state = checkpoint["state_dict"]
            checkpoint[_KEY] = {"averaged": list(self._averaged), "own": {**state, **self._own}}
            checkpoint["state_dict"] = {**state, **self._mean}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume training with its own weights; evaluation keeps the mean."""
        kept = checkpoint.get(_KEY)
        if kept is None or trainer.state.fn != TrainerFn.FITTING:
            return
        pl_module.load_state_dict(kept["own"])
        averaged: list[int] = kept["averaged"]
        if averaged[0] < self._first(trainer):  # a longer run: its last epochs are others
            return
        self._averaged = list(averaged)
        mean = checkpoint["state_dict"]
        self._mean = {name: mean[name].to(now.device, copy=True) for name, now in weights_of(pl_module).items()}

    def _first(self, trainer: Trainer) -> int:
        return int(trainer.max_epochs or 0) - self.epochs


def weights_of(module: LightningModule) -> Weights:
    """The floating-point tensors of a module's state, sharing its memory."""
    state = module.state_dict()
    return {name: t for name, t in state.items() if isinstance(t, Tensor) and t.is_floating_point()}


@torch.no_grad()
def update_mean(mean: Weights, new: Mapping[str, Tensor], count: int) -> None:
    """Make ``mean`` of ``count - 1`` models that of ``count``, in place: ``mean += (new - mean) / count``."""
    for name, tensor in new.items():
        # On the tensor's device, because a resumed mean was read before the model moved to it.
        mean[name] = mean[name].to(tensor.device).lerp_(tensor, 1 / count) if count > 1 else tensor.clone()


@torch.no_grad()
def load_floats(module: LightningModule, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the module, in place."""
    for name, tensor in weights_of(module).items():
        tensor.copy_(weights[name])
