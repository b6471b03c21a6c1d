"""What the two image modules share: clean evaluation with torchmetrics, and agreeing on the number of classes."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCohenKappa,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from ..functional import LabelKind
from .image_metrics import TOP, BalancedAccuracy, CrossEntropy, MacroAUC
from .label_metrics import ClassDistance, LabelAccuracy, LabelAUC, LabelCrossEntropy, LabelF1, MeanAveragePrecision

STAGES = ("val", "test")
#: Metrics on the same counts, which are kept once. torchmetrics would find out by comparing the first batch's counts,
#: by which metrics that happen to agree there are taken for one.
_COMPUTE_GROUPS = [
    ["accuracy"],
    ["top5_accuracy"],
    ["balanced_accuracy", "macro_precision", "macro_recall", "macro_f1"],
    ["macro_auc"],
    ["cross_entropy"],
]
_COMPUTE_GROUPS_OF_LABELS = [["accuracy"], ["macro_f1"], ["macro_auc", "mean_average_precision"], ["cross_entropy"]]
_ON_THE_BAR = ("val/accuracy", "val/balanced_accuracy")


def classification_metrics(num_classes: int, kind: LabelKind = "single") -> nn.ModuleDict:
    """The numbers of a classifier, one collection for ``val`` and one for ``test``, which logits are added to.

    The keys are ``val/accuracy``, ``val/top5_accuracy`` (of the best ``min(5, num_classes)``),
    ``val/balanced_accuracy``, ``val/macro_precision``, ``val/macro_recall``, ``val/macro_f1``, ``val/macro_auc`` and
    ``val/cross_entropy``, and the same under ``test/``. Classes that a set lacks: macro precision, recall and F1 are
    means over the classes that occur in the labels or the predictions, with 0 for what has no denominator (what
    scikit-learn and torchmetrics do); balanced accuracy is over those in the labels, macro AUC over those that have
    positives and negatives. Ordinal classes also have ``val/quadratic_kappa`` and ``val/mean_absolute_error``. Several
    labels an image have ``val/accuracy`` and ``val/macro_f1`` at probability .5, ``val/macro_auc``,
    ``val/mean_average_precision`` and ``val/cross_entropy``, and no others.

    Args:
        num_classes: C, or L labels.
        kind: of the labels.

    Raises:
        ValueError: for fewer than two classes.
    """
    _check_at_least_two(num_classes, "num_classes")
    if kind == "multi":
        metrics = MetricCollection(_metrics_of_labels(num_classes), compute_groups=_COMPUTE_GROUPS_OF_LABELS)
    elif kind == "ordinal":
        found = _metrics_of_classes(num_classes) | _metrics_of_order(num_classes)
        groups = [*_COMPUTE_GROUPS, ["quadratic_kappa"], ["mean_absolute_error"]]
        metrics = MetricCollection(found, compute_groups=groups)
    else:
        metrics = MetricCollection(_metrics_of_classes(num_classes), compute_groups=_COMPUTE_GROUPS)
    # ModuleDict, because a plain dict of metrics would stay behind when the module moves to another device.
    return nn.ModuleDict({f"{stage}_metrics": metrics.clone(prefix=f"{stage}/") for stage in STAGES})


def log_evaluation(module: LightningModule, metrics: nn.ModuleDict, logits: Tensor, labels: Tensor, stage: str) -> int:
    """Add a batch to the stage's metrics and log them over the epoch and all ranks, each image counted once.

    Args:
        module: logs them.
        metrics: of `classification_metrics`.
        logits: ``[B, classes]``.
        labels: ``[B]``, or ``[B, classes]`` where images have several.
        stage: ``val`` or ``test``.

    Returns:
        How many of the batch's images were counted, from the first: the others repeat some, see `rows_without_padding`.
    """
    collection: MetricCollection = metrics[f"{stage}_metrics"]  # type: ignore[assignment]
    kept = rows_without_padding(module.trainer, stage, _kept_images(metrics, stage).rows, len(labels))
    if kept > 0:
        collection.update(logits[:kept], labels[:kept])
    for name, metric in collection.items(keep_base=False, copy_state=False):
        module.log(name, metric, prog_bar=name in _ON_THE_BAR, batch_size=len(labels))
    return kept


def images_so_far(metrics: nn.ModuleDict, stage: str) -> int:
    """How many images this rank has had in the evaluation that is under way."""
    return _kept_images(metrics, stage).rows


def evaluated_images(metrics: nn.ModuleDict, stage: str) -> tuple[Tensor, Tensor]:
    """``[N, classes]`` logits and ``[N]`` labels of all ranks' images so far; every rank must call this together."""
    kept = _kept_images(metrics, stage)
    with kept.sync_context():
        return kept.evaluated()


def rows_without_padding(trainer: Trainer, stage: str, seen: int, rows: int) -> int:
    """How many of this rank's next ``rows`` images are its own: samplers repeat some to make the ranks' shares even.

    Args:
        trainer: of the evaluation.
        stage: ``val`` or ``test``.
        seen: images that this rank has had before.
        rows: of the batch at hand.

    Returns:
        ``rows`` unless the rank's sampler pads; a rank without any image of its own keeps what it is given, because
        metrics cannot be reduced over ranks that have none.
    """
    loader = trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders
    if isinstance(loader, list) and len(loader) == 1:
        (loader,) = loader
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return rows
    # Padding stands at the end of the order of all ranks together, of which a rank takes every n-th image.
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    return rows if own == 0 else max(0, min(rows, own - seen))


def agree_on_classes(given: int | None, trainer: Trainer) -> int:
    """The number of classes, from the model's options or the datamodule, which must not contradict each other.

    Raises:
        ValueError: if they do, if neither says, or if there is only one.
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
    classes = int(found if given is None else given)  # type: ignore[arg-type]
    _check_at_least_two(
        classes, "num_classes" if found is None else f"the training split of {type(datamodule).__name__}"
    )
    return classes


def _metrics_of_classes(num_classes: int) -> dict[str, Metric | MetricCollection]:
    return {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "top5_accuracy": MulticlassAccuracy(num_classes, average="micro", top_k=min(TOP, num_classes)),
        "balanced_accuracy": BalancedAccuracy(num_classes),
        "macro_precision": MulticlassPrecision(num_classes, average="macro"),
        "macro_recall": MulticlassRecall(num_classes, average="macro"),
        "macro_f1": MulticlassF1Score(num_classes, average="macro"),
        "macro_auc": MacroAUC(),
        "cross_entropy": CrossEntropy(),
    }


def _metrics_of_order(num_classes: int) -> dict[str, Metric | MetricCollection]:
    return {
        "quadratic_kappa": MulticlassCohenKappa(num_classes, weights="quadratic"),
        "mean_absolute_error": ClassDistance(),
    }


def _metrics_of_labels(num_labels: int) -> dict[str, Metric | MetricCollection]:
    return {
        "accuracy": LabelAccuracy(num_labels),
        "macro_f1": LabelF1(num_labels),
        "macro_auc": LabelAUC(),
        "mean_average_precision": MeanAveragePrecision(),
        "cross_entropy": LabelCrossEntropy(),
    }


def _check_at_least_two(classes: int, source: str) -> None:
    if classes < 2:
        raise ValueError(
            f"{source} says {classes} class{'' if classes == 1 else 'es'}, which leaves nothing to tell apart; "
            "a classifier needs at least 2 different labels"
        )


def _kept_images(metrics: nn.ModuleDict, stage: str) -> MacroAUC:
    collection: MetricCollection = metrics[f"{stage}_metrics"]  # type: ignore[assignment]
    kept = collection.get_submodule("macro_auc")  # brackets would copy the other metrics' counts
    if not isinstance(kept, MacroAUC):
        raise TypeError(f"metrics must come from classification_metrics; its macro_auc is a {type(kept).__name__}")
    return kept
