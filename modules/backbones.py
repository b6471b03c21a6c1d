"""Image networks by timm name, and the file in which one stage hands its classifier to the next."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from torch import Tensor, nn

from ..functional import LabelKind
from .classifier_weights import (
    CLASSIFIER_FILE,
    ClassifierWeights,
    check_fit,
    head_names,
    in_head,
    read_weights,
    taken_sentence,
)


def build_backbone(name: str, num_classes: int, channels_last: bool = False) -> nn.Module:
    """A randomly initialised timm network.

    Args:
        name: timm's name, such as ``resnet18`` (the same layers as torchvision's) or ``resnet10t``.
        num_classes: outputs; 0 gives the pooled features, whose width is ``network.num_features``.
        channels_last: keep the weights in that memory format; the images must come in it too, see `to_channels_last`.

    Raises:
        ValueError: for a name that timm does not have.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`timm.list_models()` lists the names."
        raise ValueError(f"timm has no network called {name!r}; {hint}")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def to_channels_last(images: Tensor) -> Tensor:
    """The same ``[B, C, H, W]`` images with each pixel's channels side by side in memory."""
    return images.contiguous(memory_format=torch.channels_last)


def save_classifier(folder: Path, network: nn.Module, backbone: str, num_classes: int, label_kind: LabelKind) -> Path:
    """Write ``classifier.pt``: name, class count, kind of labels, parameters; loadable without unpickling code."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    path = folder / CLASSIFIER_FILE
    content = {"backbone": backbone, "num_classes": num_classes, "label_kind": label_kind, "state_dict": state}
    torch.save(content, path)
    return path


def load_classifier(
    path: Path,
    network: nn.Module,
    backbone: str,
    num_classes: int,
    reset_head: bool = False,
    label_kind: LabelKind | None = None,
) -> str:
    """Copy a trained classifier's parameters into ``network``: all that are checked to fit, or none.

    Args:
        path: a ``classifier.pt`` or the folder that holds one, a checkpoint of an image module, or a plain state dict.
        network: takes the parameters in place.
        backbone: what ``network`` is; the file must agree.
        num_classes: outputs of ``network``; the file must agree unless ``reset_head``.
        reset_head: leave the last layer as it is, to move on to other classes.
        label_kind: of the data; a last layer that was trained for several labels an image says nothing of one class
            out of all, nor the other way round. ``None`` is not compared.

    Returns:
        One sentence that says what was taken, what was left as it was, and what the file had beyond.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no weights, or those of another network or class count.
    """
    weights = read_weights(path)
    if weights.backbone not in (None, backbone):
        raise ValueError(
            f"{path} holds a {weights.backbone}, but this model is a {backbone}; "
            f"set backbone to {weights.backbone}, or give other weights"
        )
    state = weights.state
    if reset_head:
        state = {name: tensor for name, tensor in state.items() if not in_head(name, network)}
    else:
        _check_classes(path, weights, network, num_classes)
        _check_label_kind(path, weights, label_kind)
    check_fit(path, state, network, backbone)
    own = network.state_dict()
    taken = {name: tensor for name, tensor in state.items() if name in own}
    network.load_state_dict(taken, strict=False)
    return taken_sentence(path, taken, weights.state, network)


def _check_classes(path: Path, weights: ClassifierWeights, network: nn.Module, num_classes: int) -> None:
    head = {name: tensor for name, tensor in network.state_dict().items() if in_head(name, network)}
    if any(name not in weights.state for name in head):
        raise ValueError(
            f"{path} has no last layer {' or '.join(head_names(network))}; set reset_head to start it afresh, "
            "or give weights of a whole classifier"
        )
    found = weights.num_classes
    if found is None:  # a plain state dict: the last layer has a row a class
        found = next(
            (len(weights.state[name]) for name in head if len(weights.state[name]) != num_classes), num_classes
        )
    if found != num_classes:
        raise ValueError(
            f"{path} was trained on {found} classes, but the data has {num_classes}; "
            "use the same data, or set reset_head to start the last layer afresh"
        )


def _check_label_kind(path: Path, weights: ClassifierWeights, kind: LabelKind | None) -> None:
    found = weights.label_kind
    if kind is not None and found is not None and (kind == "multi") != (found == "multi"):
        raise ValueError(
            f"{path} was trained with label_kind {found}, and the data's labels are {kind}: its last layer means "
            "something else; use the same data, or set reset_head to start the last layer afresh"
        )
