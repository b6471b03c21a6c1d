"""The part of a module that is the classifier itself, in the baseline and in the noise mask alike."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..functional import LabelKind
from .backbones import build_backbone, save_classifier, to_channels_last
from .classification import agree_on_classes, classification_metrics
from .image_loss import ImageLoss
from .label_kinds import agree_on_label_kind


class ClassifierPart(LightningModule):
    """A network that gives logits, built as soon as the number of classes is known, its loss, metrics and export.

    Modules inherit from it, set these in their constructor, and call `build` there if they know the classes:

    Attributes:
        backbone: timm name.
        num_classes: as given; ``None`` takes the datamodule's.
        label_kind: as given; ``None`` takes the datamodule's.
        channels_last: whether images go to the network in that memory format.
        loss: of training.
        network: ``None`` while the number of classes is unknown.
        metrics: of `classification_metrics`.
    """

    backbone: str
    num_classes: int | None
    label_kind: LabelKind | None
    channels_last: bool
    loss: ImageLoss
    network: nn.Module | None
    metrics: nn.ModuleDict

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

    def build(self, num_classes: int, kind: LabelKind | None) -> None:
        """Make the network, unless it is there, and what measures it."""
        if self.network is None:
            self.network = build_backbone(self.backbone, num_classes, self.channels_last)
        self.loss.kind = kind or "single"
        self.metrics = classification_metrics(num_classes, self.loss.kind)
        # So that a checkpoint can be loaded without the data.
        self.hparams["num_classes"], self.hparams["label_kind"] = num_classes, self.loss.kind

    def take_data(self, stage: str) -> int:
        """Agree with the datamodule, build what is missing and count the classes to train on.

        Returns:
            The number of classes.
        """
        classes = agree_on_classes(self.num_classes, self.trainer)
        kind = agree_on_label_kind(self.label_kind, self.trainer)
        if self.network is None or kind != self.loss.kind:
            self.build(classes, kind)
        if stage == "fit":
            self.loss.prepare(self.trainer)
        return classes

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` normalised images -> ``[B, classes]`` logits."""
        logits: Tensor = self.classifier(to_channels_last(images) if self.channels_last else images)
        return logits

    def export(self, folder: Path) -> None:
        """Write ``classifier.pt`` into ``folder``; what else the module has learned has done its work."""
        save_classifier(folder, self.classifier, self.backbone, int(self.hparams["num_classes"]), self.loss.kind)

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
