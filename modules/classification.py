"""What the two image modules share: clean evaluation with torchmetrics, and agreeing on the number of classes."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

STAGES = ("val", "test")


def classification_metrics(num_classes: int) -> nn.ModuleDict:
    """Accuracy, balanced accuracy (= macro recall) and macro F1, one collection for ``val`` and one for ``test``.

    The keys are ``val/accuracy``, ``val/balanced_accuracy``, ``val/macro_f1`` and the same under ``test/``. Macro means
    leave out classes that occur neither in the labels nor in the predictions.
    """
    metrics = MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "balanced_accuracy": MulticlassAccuracy(num_classes, average="macro"),
            "macro_f1": MulticlassF1Score(num_classes, average="macro"),
        }
    )
    # ModuleDict, because a plain dict of metrics would stay behind when the module moves to another device.
    return nn.ModuleDict({f"{stage}_metrics": metrics.clone(prefix=f"{stage}/") for stage in STAGES})


def log_evaluation(module: LightningModule, metrics: nn.ModuleDict, logits: Tensor, labels: Tensor, stage: str) -> None:
    """Add a batch to the stage's metrics and log them, with the cross-entropy, over the epoch.

    Args:
        module: logs them.
        metrics: of `classification_metrics`.
        logits: ``[B, classes]``.
        labels: ``[B]``.
        stage: ``val`` or ``test``.
    """
    collection: MetricCollection = metrics[f"{stage}_metrics"]  # type: ignore[assignment]
    collection.update(logits, labels)
    module.log(f"{stage}/cross_entropy", F.cross_entropy(logits, labels), batch_size=len(labels))
    module.log_dict(collection, prog_bar=stage == "val", batch_size=len(labels))


def agree_on_classes(given: int | None, trainer: Trainer) -> int:
    """The number of classes, from the model's options or the datamodule, which must not contradict each other.

    Raises:
        ValueError: if they do, or if neither says.
    """
    datamodule = getattr(trainer, "datamodule", None)
    found: int | None = getattr(datamodule, "num_classes", None)
    if found is None and given is None:
        raise ValueError("the number of classes is unknown: set num_classes, or use a datamodule that has it")
    if found is not None and given is not None and found != given:
        raise ValueError(
            f"num_classes is {given}, but {type(datamodule).__name__} found {found} classes; "
            "leave num_classes out to take the data's"
        )
    return found if given is None else int(given)  # type: ignore[return-value]
