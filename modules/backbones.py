"""Image networks by timm name, and the file in which one stage hands its classifier to the next."""

from __future__ import annotations

import difflib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CLASSIFIER_FILE = "classifier.pt"


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


def save_classifier(folder: Path, network: nn.Module, backbone: str, num_classes: int) -> Path:
    """Write ``classifier.pt``: name, class count and parameters, loadable without unpickling code."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    path = folder / CLASSIFIER_FILE
    torch.save({"backbone": backbone, "num_classes": num_classes, "state_dict": state}, path)
    return path


def load_classifier(path: Path, network: nn.Module, backbone: str, num_classes: int, reset_head: bool = False) -> str:
    """Copy an exported classifier's parameters into ``network``.

    Args:
        path: a ``classifier.pt``, or the folder that holds one.
        network: takes the parameters in place.
        backbone: what ``network`` is; the file must agree.
        num_classes: outputs of ``network``; the file must agree unless ``reset_head``.
        reset_head: leave the last layer as it is, to move on to other classes.

    Returns:
        One sentence that says what was taken.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no exported classifier, or is one of another network or class count.
    """
    exported = _read_export(path)
    if exported["backbone"] != backbone:
        raise ValueError(
            f"{path} holds a {exported['backbone']}, but this model is a {backbone}; "
            f"set backbone to {exported['backbone']}, or give other weights"
        )
    if exported["num_classes"] != num_classes and not reset_head:
        raise ValueError(
            f"{path} was trained on {exported['num_classes']} classes, but the data has {num_classes}; "
            "use the same data, or set reset_head to start the last layer afresh"
        )
    state = exported["state_dict"]
    if reset_head:
        head: str = network.default_cfg["classifier"]  # type: ignore[index,assignment] # timm's name for it
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{head}.")}
    missing = network.load_state_dict(state, strict=False).missing_keys
    left = f"; left as they were: {', '.join(missing)}" if missing else ""
    return f"{len(state)} of {len(network.state_dict())} tensors taken from {path}{left}"


def _read_export(path: Path) -> dict[str, Any]:
    file = path / CLASSIFIER_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no weights at {file}; run the stage that exports them first (it writes <run_dir>/model/{CLASSIFIER_FILE})"
        )
    try:
        exported = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as an exported classifier: {error}") from error
    if not isinstance(exported, dict) or not {"backbone", "num_classes", "state_dict"} <= set(exported):
        raise ValueError(
            f"{file} is not an exported classifier, which has the keys backbone, num_classes and state_dict; "
            "of a checkpoint, give the model/classifier.pt beside it"
        )
    return exported
