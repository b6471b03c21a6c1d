"""The part of a module that is the classifier itself, in the baseline and in the noise mask alike."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from .backbones import save_classifier, to_channels_last


class ClassifierPart(LightningModule):
    """A network that gives logits, built as soon as the number of classes is known, and what is exported.

    Modules inherit from it and set these in their constructor, before or without building the network:

    Attributes:
        backbone: timm name.
        channels_last: whether images go to the network in that memory format.
        network: ``None`` while the number of classes is unknown.
    """

    backbone: str
    channels_last: bool
    network: nn.Module | None

    @property
    def classifier(self) -> nn.Module:
        """The network, with logits for outputs.

        Raises:
            RuntimeError: while the number of classes is unknown.
        """
        if self.network is None:
            raise RuntimeError(
                "the classifier is not built yet: give num_classes, or let a Trainer with data set it up"
            )
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` normalised images -> ``[B, classes]`` logits."""
        logits: Tensor = self.classifier(to_channels_last(images) if self.channels_last else images)
        return logits

    def export(self, folder: Path) -> None:
        """Write ``classifier.pt`` into ``folder``; what else the module has learned has done its work."""
        save_classifier(folder, self.classifier, self.backbone, int(self.hparams["num_classes"]))

    def refuse_single_image(self, images: int) -> None:
        """Refuse a step on one image where batch normalisation would take its own statistics for the data's.

        Raises:
            ValueError: if there is one image, no other rank, and a batch normalisation in training mode.
        """
        kinds = (nn.modules.batchnorm._BatchNorm,)
        alone = images < 2 and (self._trainer is None or self.trainer.world_size == 1)
        if alone and any(isinstance(layer, kinds) and layer.training for layer in self.classifier.modules()):
            raise ValueError(
                f"the batch normalisation of {self.backbone} needs at least 2 images a training step, got {images}; "
                "raise batch_size, or drop the last incomplete batch (the DataLoader's drop_last)"
            )
