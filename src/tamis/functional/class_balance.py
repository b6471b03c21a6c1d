"""Losses of unbalanced classes: weights of the classes, and logits moved by their frequency."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ClassWeighting = Literal["none", "inverse", "effective"]
#: ``single``: one class an image. ``ordinal``: the same, and the classes have an order. ``multi``: any of L labels.
LabelKind = Literal["single", "ordinal", "multi"]


def class_weights(counts: Tensor, weighting: ClassWeighting, beta: float = 0.999) -> Tensor:
    """What each class's images weigh in the loss, 1 in the mean over all training images.

    ``inverse`` weighs an image by 1 / n of its class of n images. ``effective`` weighs it by ``(1 - beta) /
    (1 - beta^n)``, the inverse of the effective number of samples (Cui et al., "Class-Balanced Loss Based on Effective
    Number of Samples", CVPR 2019, eq. 4 and section 4.1): beta 0 is no weighting, beta towards 1 is ``inverse``, and
    1 / (1 - beta) is the number of images beyond which more of them count for nothing. The paper lets the weights of
    the C classes sum to C; here their mean over images is 1, so that the loss keeps the size that the learning rate was
    chosen for, and no batch has to be divided by its own weights: the mean over ranks is then that of one process.

    Args:
        counts: ``[C]`` int, training images of each class.
        weighting: which weights; ``none`` are 1.
        beta: of ``effective``, in [0, 1).

    Returns:
        ``[C]`` float32; 0 for a class without images.

    Raises:
        ValueError: for counts below 0 or without any image, a beta outside [0, 1) or an unknown weighting.
    """
    _check_counts(counts)
    if not 0 <= beta < 1:
        raise ValueError(f"beta must lie in [0, 1), got {beta}; the weighting inverse is its limit 1")
    images = counts.double()
    occurs = counts > 0
    if weighting == "inverse":
        raw = 1 / images.where(occurs, 1.0)
    elif weighting == "effective":
        raw = (1 - beta) / (1 - beta ** images.where(occurs, 1.0))
    elif weighting == "none":
        raw = torch.ones_like(images)
    else:
        raise ValueError(f"the weighting must be none, inverse or effective, got {weighting!r}")
    raw = raw.where(occurs, 0.0)
    return (raw * images.sum() / (raw * images).sum()).float()


def logit_offsets(counts: Tensor, tau: float) -> Tensor:
    """What logit adjustment adds to each class's logit in the training loss: ``tau * log(n / N)``.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10. The network then learns logits that are
    right for equally frequent classes, and is used without the offsets.

    Args:
        counts: ``[C]`` int, training images of each class; one without images counts as having one, since the
            logarithm of 0 would take it out of the loss.
        tau: 1 is consistent for the balanced error; 0 adds nothing.

    Returns:
        ``[C]`` float32, at most 0 for a tau of at least 0.

    Raises:
        ValueError: for counts below 0 or without any image, or a tau below 0 or not finite.
    """
    _check_counts(counts)
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be finite and at least 0, got {tau}")
    images = counts.double()
    return (tau * (images.clamp(min=1) / images.sum()).log()).float()


def balanced_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, offsets: Tensor | None) -> Tensor:
    """``weights[y] * -log softmax(logits + offsets)[y]`` of each image, in nats.

    Each image's number is its own, whatever else is in the batch: the mean over a batch is the mean over its parts.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` int64.
        weights: ``[C]`` of `class_weights`; ``None`` weighs nothing.
        offsets: ``[C]`` of `logit_offsets`; ``None`` adds nothing.

    Returns:
        ``[B]``.
    """
    losses = F.cross_entropy(logits if offsets is None else logits + offsets, labels, reduction="none")
    return losses if weights is None else weights[labels] * losses


def _check_counts(counts: Tensor) -> None:
    if counts.dim() != 1 or counts.is_floating_point() or bool((counts < 0).any()) or int(counts.sum()) == 0:
        raise ValueError(
            f"counts must be whole numbers of images, one a class, at least 0 and not all 0; got {counts.tolist()}"
        )
