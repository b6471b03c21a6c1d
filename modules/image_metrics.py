"""What the image modules measure: metrics that torchmetrics lacks, and the scores of classes and groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassRecall
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)
from torchmetrics.utilities.data import dim_zero_cat

TOP = 5


class BalancedAccuracy(MulticlassRecall):
    """Mean recall of the classes that occur in the labels.

    torchmetrics' macro means also count, as 0, a class that is predicted and never occurs, so that the balanced
    accuracy of a set without some classes would depend on where its errors go.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="macro")

    def compute(self) -> Tensor:
        """NaN where no class occurs."""
        right, missed = dim_zero_cat(self.tp), dim_zero_cat(self.fn)
        support = right + missed
        return (right / support)[support > 0].mean()


class CrossEntropy(Metric):
    """Mean cross-entropy over all images of all ranks."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add ``[B, C]`` logits and ``[B]`` labels."""
        self.total += F.cross_entropy(preds.detach().float(), target, reduction="sum")
        self.images += len(target)

    def compute(self) -> Tensor:
        """In nats an image."""
        return self.total / self.images


class MacroAUC(Metric):
    """Mean one-vs-rest AUC of the classes that have both positives and negatives; see `one_vs_rest_auc`.

    It keeps every image's logits, because the AUC is exact and because they are all that a report needs: 4 bytes an
    image and class, 66 MB for 100,000 images of 165 classes, which every rank holds once while they are gathered.
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    @property
    def rows(self) -> int:
        """Images that this rank has added."""
        return sum(len(labels) for labels in self.labels)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add ``[B, C]`` logits and ``[B]`` labels."""
        self.logits.append(preds.detach().float())
        self.labels.append(target)

    def compute(self) -> Tensor:
        """NaN where no class has both."""
        return one_vs_rest_auc(*self.evaluated()).nanmean()

    def evaluated(self) -> tuple[Tensor, Tensor]:
        """``[N, C]`` logits and ``[N]`` labels; inside ``sync_context`` those of all ranks, one rank after another."""
        return dim_zero_cat(self.logits), dim_zero_cat(self.labels)


class ClassScores(NamedTuple):
    """One number a class, ``[C]`` each.

    Args:
        support: images of the class.
        predicted: images that were taken for it.
        precision: 0 where nothing was taken for it.
        recall: 0 where it does not occur.
        f1: 0 where both are.
        auc: one-vs-rest; NaN where it does not occur or nothing else does.
    """

    support: Tensor
    predicted: Tensor
    precision: Tensor
    recall: Tensor
    f1: Tensor
    auc: Tensor

    @property
    def counted(self) -> Tensor:
        """``[C]`` bool: the classes of the macro means, which occur in the labels or the predictions."""
        return self.support + self.predicted > 0


def one_vs_rest_auc(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each class, the chance that an image of it gets a higher probability of it than one of another class.

    A tie counts half (Hanley & McNeil 1982). torchmetrics' own multiclass AUC gives 0, and a warning, to a class that
    does not occur, and takes the mean over it; hence one binary AUC for each class that has one.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.

    Returns:
        ``[C]``, NaN for classes without positives or without negatives, and everywhere if a logit is not finite.
    """
    auc = torch.full((logits.shape[1],), torch.nan, device=logits.device)
    if not bool(logits.isfinite().all()):
        return auc
    probabilities = logits.float().softmax(dim=-1)
    support = torch.bincount(labels, minlength=logits.shape[1])
    for label in ((support > 0) & (support < len(labels))).nonzero().flatten().tolist():
        auc[label] = binary_auroc(probabilities[:, label], (labels == label).long(), validate_args=False)
    return auc


def score_classes(logits: Tensor, labels: Tensor) -> ClassScores:
    """Precision, recall, F1 and AUC of each class.

    Args:
        logits: ``[N, C]``, N at least 1.
        labels: ``[N]``.
    """
    classes = logits.shape[1]
    predictions = logits.argmax(dim=1)
    return ClassScores(
        support=torch.bincount(labels, minlength=classes),
        predicted=torch.bincount(predictions, minlength=classes),
        precision=multiclass_precision(predictions, labels, classes, average="none"),
        recall=multiclass_recall(predictions, labels, classes, average="none"),
        f1=multiclass_f1_score(predictions, labels, classes, average="none"),
        auc=one_vs_rest_auc(logits, labels),
    )


def score_group(logits: Tensor, labels: Tensor, classes: Sequence[int]) -> dict[str, float]:
    """The metrics of `classification_metrics` over the images of some classes, each still judged among all classes.

    Macro means run over these classes alone. An image that is taken for a class outside the group is a miss of its own
    class; it does not make that class one of the group's, as a macro mean over all predictions would.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
        classes: the group's; at least one of them must occur.
    """
    inside = torch.tensor(sorted(classes), device=labels.device)
    rows = torch.isin(labels, inside)
    logits, labels = logits[rows], labels[rows]
    scores = ClassScores(*(values[inside] for values in score_classes(logits, labels)))
    top = min(TOP, logits.shape[1])
    numbers = {
        "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        "top5_accuracy": multiclass_accuracy(logits, labels, logits.shape[1], average="micro", top_k=top),
        "balanced_accuracy": scores.recall[scores.support > 0].mean(),
        "macro_precision": scores.precision[scores.counted].mean(),
        "macro_recall": scores.recall[scores.counted].mean(),
        "macro_f1": scores.f1[scores.counted].mean(),
        "macro_auc": scores.auc.nanmean(),
        "cross_entropy": F.cross_entropy(logits, labels),
    }
    return {name: float(number) for name, number in numbers.items()}
