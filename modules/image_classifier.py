"""The plain classifier: the noise mask's baseline, and the stage that fine-tunes its heated weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import build_backbone, load_classifier, save_classifier
from .classification import agree_on_classes, classification_metrics, log_evaluation


class ImageClassifier(LightningModule):
    """Cross-entropy on clean images; the defaults are the published baseline's (SGD 0.1, times 0.1 every 30 epochs).

    Args:
        backbone: timm name of the network, randomly initialised.
        num_classes: ``None`` takes the datamodule's.
        weights: an exported ``classifier.pt`` (or its folder) to start from, such as noise-mask pretraining's.
        reset_head: start the last layer afresh, for weights of other classes.
        optimizer: makes the optimiser.
        scheduler: makes its learning-rate schedule, stepped once an epoch.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int | None = None,
        weights: str | None = None,
        reset_head: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
        scheduler: LRSchedulerCallable = lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=30, gamma=0.1),
    ) -> None:
        super().__init__()
        # The weights are not kept: a checkpoint has its own, and must load where their file is gone.
        self.save_hyperparameters(ignore=["weights", "reset_head", "optimizer", "scheduler"])
        self.backbone, self.num_classes = backbone, num_classes
        self.weights, self.reset_head = weights, reset_head
        self.optimizer, self.scheduler = optimizer, scheduler
        self.network: nn.Module | None = None
        if num_classes is not None:
            self._build(num_classes)

    def setup(self, stage: str) -> None:
        """Build the network for the data's classes and load the weights to start from, once."""
        classes = agree_on_classes(self.num_classes, self.trainer)
        if self.network is None:
            self._build(classes)
        if self.weights is not None:
            rank_zero_info(
                load_classifier(Path(self.weights), self.classifier, self.backbone, classes, self.reset_head)
            )
            self.weights = None  # a test after the fit must see the trained network

    @property
    def classifier(self) -> nn.Module:
        """The network itself, with logits for outputs.

        Raises:
            RuntimeError: while the number of classes is unknown.
        """
        if self.network is None:
            raise RuntimeError("the network is not built yet: give num_classes, or let a Trainer with data set it up")
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` normalised images -> ``[B, classes]`` logits."""
        logits: Tensor = self.classifier(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch of images and labels."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/cross_entropy", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch of the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch of the test split."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """``[B, classes]`` probabilities."""
        logits: Tensor = self(batch[0])
        return logits.softmax(dim=-1)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of shapes
        """One optimiser and its schedule."""
        optimizer = self.optimizer(self.classifier.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def export(self, folder: Path) -> None:
        """Write ``classifier.pt`` into ``folder``."""
        save_classifier(folder, self.classifier, self.backbone, int(self.hparams["num_classes"]))

    def _build(self, num_classes: int) -> None:
        self.network = build_backbone(self.backbone, num_classes)
        self.metrics = classification_metrics(num_classes)
        self.hparams["num_classes"] = num_classes  # so that a checkpoint can be loaded without the data

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        log_evaluation(self, self.metrics, self(images), labels, stage)
