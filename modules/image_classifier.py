"""The plain classifier: the noise mask's baseline, and the stage that fine-tunes its heated weights."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from ..functional import LabelKind
from .backbones import load_classifier
from .classification import log_evaluation
from .classifier_part import ClassifierPart
from .classifier_weights import head_names, in_head
from .image_loss import ClassBalance, ImageLoss
from .label_kinds import probabilities
from .sound_steps import SoundAutomaticSteps


class ImageClassifier(ClassifierPart, SoundAutomaticSteps):
    """Cross-entropy on clean images; the defaults are the published baseline's (SGD 0.1, times 0.1 every 30 epochs).

    Args:
        backbone: timm name of the network, randomly initialised.
        num_classes: ``None`` takes the datamodule's.
        weights: what to start from: an exported ``classifier.pt`` or its folder, such as noise-mask pretraining's, a
            checkpoint of an image module, or a plain state dict. The log says which of the tensors were taken.
        reset_head: start the last layer afresh, for weights of other classes.
        trainable: ``head`` trains the last layer alone (a linear probe): everything before it is frozen, the statistics
            of its batch normalisation too.
        channels_last: keep the network and its images in that memory format; the same numbers but for rounding.
        label_kind: ``single``, one class an image; ``ordinal``, the same with an order; or ``multi``, any of several
            labels. ``None`` takes the datamodule's.
        class_balance: of the loss, for unbalanced classes, such as ``{weighting: effective}``; see `ClassBalance`.
        optimizer: makes the optimiser.
        scheduler: makes its learning-rate schedule, stepped once an epoch.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int | None = None,
        weights: str | None = None,
        reset_head: bool = False,
        trainable: Literal["all", "head"] = "all",
        channels_last: bool = False,
        label_kind: LabelKind | None = None,
        class_balance: ClassBalance | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True
        ),
        scheduler: LRSchedulerCallable = lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=30, gamma=0.1),
    ) -> None:
        super().__init__()
        # The weights are not kept: a checkpoint has its own, and must load where their file is gone.
        self.save_hyperparameters(ignore=["weights", "reset_head", "class_balance", "optimizer", "scheduler"])
        self.backbone, self.num_classes, self.label_kind = backbone, num_classes, label_kind
        self.loss = ImageLoss(class_balance)
        self.weights, self.reset_head = weights, reset_head
        self.trainable, self.channels_last = trainable, channels_last
        self.optimizer, self.scheduler = optimizer, scheduler
        self._trained_before = weights is not None
        self.network = None
        if num_classes is not None:
            self.build(num_classes, label_kind)

    def setup(self, stage: str) -> None:
        """Build the network for the data's classes and load the weights to start from, once."""
        super().setup(stage)
        classes = self.take_data(stage)
        if self.weights is not None:
            kind = self.loss.kind
            rank_zero_info(
                load_classifier(Path(self.weights), self.classifier, self.backbone, classes, self.reset_head, kind)
            )
            self.weights = None  # a test after the fit must see the trained network
        resumed = self.trainer.ckpt_path is not None
        if stage == "fit" and self.trainable == "head" and not (self._trained_before or resumed):
            rank_zero_warn(
                "trainable is head and weights is null: the last layer learns on a random network that stays as it is; "
                "give the weights to probe, unless this is a control"
            )

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, which a frozen network is always in but for its last layer."""
        super().train(mode)
        if self.network is not None and self.trainable == "head":
            self.network.eval()
            for head in head_names(self.network):
                self.network.get_submodule(head).train(mode)
        return self

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint's network is no random one."""
        super().on_load_checkpoint(checkpoint)
        self._trained_before = True

    def on_train_start(self) -> None:
        """Refuse batches of one image before any time is spent, where the loader tells its sizes."""
        loader = self.trainer.train_dataloader
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            return
        images = len(loader.sampler) if isinstance(loader.sampler, Sized) else 0
        last = images % loader.batch_size
        self.refuse_single_image(loader.batch_size if loader.drop_last or last == 0 else last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of a batch of images and labels."""
        images, labels = batch
        self.refuse_single_image(len(images))
        loss = self.loss.mean(self(images), labels)
        self.log("train/cross_entropy", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch of the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch of the test split."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """``[B, classes]`` probabilities, which sum to 1 unless images have several labels."""
        return probabilities(self(batch[0]), self.loss.kind)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of shapes
        """One optimiser, of the parameters that train, and its schedule."""
        optimizer = self.optimizer([p for p in self.classifier.parameters() if p.requires_grad])
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def build(self, num_classes: int, kind: LabelKind | None) -> None:
        """Freeze what does not train, too."""
        super().build(num_classes, kind)
        for name, parameter in self.classifier.named_parameters():
            parameter.requires_grad_(self.trainable == "all" or in_head(name, self.classifier))
        self.train(self.training)

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        log_evaluation(self, self.metrics, self(images), labels, stage)
