"""What an image costs in training: the loss of its kind of label, with unbalanced classes evened out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from ..functional import ClassWeighting, LabelKind, class_weights, logit_offsets
from .label_kinds import per_image_loss


@dataclass(frozen=True)
class ClassBalance:
    """Two ways to even out unbalanced classes in the training loss; evaluation never sees them.

    Args:
        weighting: ``inverse`` and ``effective`` let the images of rare classes weigh more, see `class_weights`. The
            weights have a mean of 1 over the training images and no batch is divided by its own, so that several
            processes take the steps of one.
        beta: of ``effective``: 1 / (1 - beta) images are as many as a class can have; 0 weighs nothing, towards 1 is
            ``inverse``.
        logit_adjustment: tau of `logit_offsets`: frequent classes get a head start in training that they do not have
            in use; 1 aims at the balanced accuracy, 0 leaves it out.

    Raises:
        ValueError: for a value out of range, or where both ways are off.
    """

    weighting: ClassWeighting = "none"
    beta: float = 0.999
    logit_adjustment: float = 0.0

    def __post_init__(self) -> None:
        one_image = torch.ones(1, dtype=torch.int64)
        class_weights(one_image, self.weighting, self.beta)  # the rules stand there
        logit_offsets(one_image, self.logit_adjustment)
        if self.weighting == "none" and self.logit_adjustment == 0:
            raise ValueError("class_balance with weighting none and logit_adjustment 0 does nothing; set it to null")


class ImageLoss(nn.Module):
    """`per_image_loss` with the class weights and offsets that the training split asks for.

    Args:
        balance: ``None`` takes every image as it is.
    """

    weights: Tensor | None
    offsets: Tensor | None

    def __init__(self, balance: ClassBalance | None = None) -> None:
        super().__init__()
        self.balance = balance
        self.kind: LabelKind = "single"
        # Made anew by every fit from its own training split, and so not saved.
        self.register_buffer("weights", None, persistent=False)
        self.register_buffer("offsets", None, persistent=False)

    def prepare(self, trainer: Trainer) -> None:
        """Count the training images of each class, if their number matters.

        Raises:
            ValueError: if images have several labels, nobody counts, or a sampler evens the classes out as well.
        """
        if self.balance is None:
            return
        if self.kind == "multi":
            raise ValueError("class_balance needs one class an image, and these have several labels; set it to null")
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is None or not hasattr(datamodule, "class_counts"):
            who = "this run has no datamodule" if datamodule is None else f"{type(datamodule).__name__} has none"
            raise ValueError(
                f"class_balance needs a datamodule whose class_counts() gives the training images of each class, and "
                f"{who}; give the datamodule one, or set class_balance to null"
            )
        if getattr(datamodule, "sampling", "uniform") == "balanced":
            raise ValueError(
                "class_balance evens the classes out in the loss, and sampling balanced in the batches: together they "
                "would favour rare classes twice; set class_balance to null, or sampling to uniform"
            )
        counts: Tensor = datamodule.class_counts()
        self.weights = class_weights(counts, self.balance.weighting, self.balance.beta)
        self.offsets = logit_offsets(counts, self.balance.logit_adjustment)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``[B, C]`` logits and labels of this kind -> ``[B]``, each image's own.

        Raises:
            RuntimeError: if classes are to be balanced and no fit has counted them.
        """
        if self.balance is not None and self.weights is None:
            raise RuntimeError("class_balance is known from the training split on: let a Trainer with data set it up")
        return per_image_loss(logits, labels, self.kind, self.weights, self.offsets)

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        if self.balance is None and self.kind != "multi" and labels.dim() == 1:
            return F.cross_entropy(logits, labels)  # one kernel, which rounds otherwise than the mean of the images'
        return self.forward(logits, labels).mean()
