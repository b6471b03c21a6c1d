"""The kinds of labels an image may have: what each makes of logits, in the loss and in predictions."""

from __future__ import annotations

from typing import get_args

from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

from ..functional import LabelKind, balanced_cross_entropy


def per_image_loss(
    logits: Tensor, labels: Tensor, kind: LabelKind, weights: Tensor | None = None, offsets: Tensor | None = None
) -> Tensor:
    """What each image costs, in nats: the cross-entropy of its class, or the mean over its labels of the binary one.

    Ordinal classes are learned as plain ones, as MedMNIST's baselines do; their order shows in the metrics.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` int64, or ``[B, L]`` of 0 and 1 with kind ``multi``, where C is L.
        kind: of the labels.
        weights: ``[C]`` of the classes, see `class_weights`; not with ``multi``.
        offsets: ``[C]`` added to the logits, see `logit_offsets`; not with ``multi``.

    Returns:
        ``[B]``.

    Raises:
        ValueError: if the labels' shape is another kind's.
    """
    if kind != "multi":
        if labels.dim() != 1:
            raise ValueError(
                f"labels of kind {kind} are one number an image, got {tuple(labels.shape)}; "
                "set label_kind to multi where an image has several"
            )
        return balanced_cross_entropy(logits, labels, weights, offsets)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels of kind multi have a 0 or 1 for each of {logits.shape[1]} labels, got {tuple(labels.shape)} for "
            f"{len(logits)} images; set label_kind to single where an image has one class"
        )
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(dim=1)


def probabilities(logits: Tensor, kind: LabelKind) -> Tensor:
    """``[B, C]`` logits -> probabilities: of one class out of all, or of each label by itself."""
    return logits.sigmoid() if kind == "multi" else logits.softmax(dim=-1)


def agree_on_label_kind(given: LabelKind | None, trainer: Trainer) -> LabelKind:
    """The kind of the labels, from the model's options or the datamodule; ``single`` if neither says.

    A model may take ordinal classes for plain ones, or the other way round, which changes the metrics only.

    Raises:
        ValueError: for an unknown kind, or if one says ``multi`` and the other does not.
    """
    if given is not None and given not in get_args(LabelKind):
        raise ValueError(f"label_kind must be one of {', '.join(get_args(LabelKind))}, got {given!r}")
    datamodule = getattr(trainer, "datamodule", None)
    found: LabelKind | None = getattr(datamodule, "label_kind", None)
    if given is not None and found is not None and (given == "multi") != (found == "multi"):
        raise ValueError(
            f"label_kind is {given}, but the labels of {type(datamodule).__name__} are {found}; "
            "leave label_kind out to take the data's"
        )
    return given or found or "single"
