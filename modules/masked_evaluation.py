"""How the classifier does behind masks: the expected mask of each image, and a drawn one."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ..functional import LabelKind
from .classification import STAGES
from .image_metrics import BalancedAccuracy, CrossEntropy
from .label_metrics import LabelAccuracy, LabelCrossEntropy

KINDS = ("mean_mask", "sampled_mask")


class MaskedEvaluation(nn.Module):
    """Accuracy, balanced accuracy and cross-entropy behind masks, beside those on clean images.

    The keys are ``val/mean_mask_accuracy``, ``val/sampled_mask_accuracy`` and so on. Clean images are what the deployed
    classifier sees; these say what noise costs it.

    Args:
        num_classes: of the classifier.
        kind: of the labels; where an image has several there is no balanced accuracy.
    """

    def __init__(self, num_classes: int, kind: LabelKind) -> None:
        super().__init__()
        found: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "balanced_accuracy": BalancedAccuracy(num_classes),
            "cross_entropy": CrossEntropy(),
        }
        if kind == "multi":
            found = {"accuracy": LabelAccuracy(num_classes), "cross_entropy": LabelCrossEntropy()}
        metrics = MetricCollection(found, compute_groups=False)
        # Names of modules hold no slash.
        self.metrics = nn.ModuleDict(
            {f"{stage}_{kind}": metrics.clone(prefix=f"{stage}/{kind}_") for stage in STAGES for kind in KINDS}
        )

    def log(self, module: LightningModule, kind: str, logits: Tensor, labels: Tensor, stage: str) -> None:
        """Add a batch and log it over the epoch and all ranks.

        Args:
            module: logs them.
            kind: ``mean_mask`` or ``sampled_mask``.
            logits: ``[B, classes]`` of the masked images, without those that a sampler repeats.
            labels: ``[B]``.
            stage: ``val`` or ``test``.
        """
        collection: MetricCollection = self.metrics[f"{stage}_{kind}"]  # type: ignore[assignment]
        if len(labels) > 0:
            collection.update(logits, labels)
        module.log_dict(collection, batch_size=max(len(labels), 1))
