"""What is measured where images have several labels, or classes have an order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MultilabelAccuracy, MultilabelF1Score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from .image_metrics import ClassScores, CrossEntropy, MacroAUC
from .label_kinds import per_image_loss


class LabelAccuracy(MultilabelAccuracy):
    """Share of all images' labels that are on the right side of probability .5.

    Args:
        num_labels: L.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="micro")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add ``[B, L]`` logits and labels; torchmetrics would take logits in [0, 1] for probabilities."""
        super().update(preds.float().sigmoid(), target.long())


class LabelF1(MultilabelF1Score):
    """Mean over the labels of the F1 at probability .5, 0 for a label that is neither true nor predicted anywhere.

    Args:
        num_labels: L.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="macro")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add ``[B, L]`` logits and labels."""
        super().update(preds.float().sigmoid(), target.long())


class LabelAUC(MacroAUC):
    """Mean AUC of the labels that have both positives and negatives, as MedMNIST's evaluator; see `MacroAUC`."""

    def compute(self) -> Tensor:
        """NaN where no label has both."""
        return of_each_label(binary_auroc, *self.evaluated()).nanmean()


class MeanAveragePrecision(MacroAUC):
    """Mean average precision of the labels that have positives and negatives, from the images that `LabelAUC` keeps."""

    def compute(self) -> Tensor:
        """NaN where no label has both."""
        return of_each_label(binary_average_precision, *self.evaluated()).nanmean()


class LabelCrossEntropy(CrossEntropy):
    """Mean over images and labels of the binary cross-entropy."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add ``[B, L]`` logits and labels."""
        self.total += per_image_loss(preds.detach().float(), target, "multi").sum()
        self.images += len(target)


class ClassDistance(MeanAbsoluteError):
    """Mean number of classes between the predicted and the true one, where classes have an order."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add ``[B, C]`` logits and ``[B]`` labels."""
        super().update(preds.argmax(dim=1), target)


def of_each_label(metric: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """A metric of rankings, label by label.

    Args:
        metric: torchmetrics' ``binary_auroc`` or ``binary_average_precision``.
        logits: ``[N, L]``.
        labels: ``[N, L]`` of 0 and 1.

    Returns:
        ``[L]``, NaN for labels without positives or without negatives, and everywhere if a logit is not finite.
    """
    scores = torch.full((logits.shape[1],), torch.nan, device=logits.device)
    if not bool(logits.isfinite().all()):
        return scores
    positives = labels.sum(dim=0)
    for label in ((positives > 0) & (positives < len(labels))).nonzero().flatten().tolist():
        # Places in the order: of large logits the sigmoid, which torchmetrics would take, is 1 for all.
        _, places = logits[:, label].unique(return_inverse=True)
        scores[label] = metric(places / len(places), labels[:, label].long(), validate_args=False)
    return scores


def score_labels(logits: Tensor, labels: Tensor) -> ClassScores:
    """Precision, recall, F1 at probability .5 and AUC of each label, of images that may have several.

    Args:
        logits: ``[N, L]``.
        labels: ``[N, L]`` of 0 and 1.
    """
    predicted, true = logits > 0, labels > 0
    hits, marked, support = (both.sum(dim=0) for both in (predicted & true, predicted, true))
    return ClassScores(
        support=support,
        predicted=marked,
        precision=hits / marked.clamp(min=1),
        recall=hits / support.clamp(min=1),
        f1=2 * hits / (marked + support).clamp(min=1),
        auc=of_each_label(binary_auroc, logits, labels),
    )
