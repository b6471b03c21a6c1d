"""Weights of a classifier out of the files that hold them, checked against the network before anything is copied."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..torch_files import read_torch_file

CLASSIFIER_FILE = "classifier.pt"
#: What torch.compile, DistributedDataParallel and this package's modules put before the names of a network's tensors.
_WRAPPERS = ("_orig_mod.", "module.")
_IN_MODULE = "network."
_SHOWN = 3


class ClassifierWeights(NamedTuple):
    """Tensors by name, and what the file says of the network they are of.

    Args:
        state: the classifier's tensors, by the names that the bare network gives them.
        backbone: timm name, if the file says it.
        num_classes: if the file says it.
        label_kind: of what it was trained on, if the file says it.
    """

    state: dict[str, Tensor]
    backbone: str | None
    num_classes: int | None
    label_kind: str | None = None


def read_weights(path: Path) -> ClassifierWeights:
    """Read an exported ``classifier.pt``, a Lightning checkpoint of an image module, or a plain state dict.

    Args:
        path: the file, or a folder with a ``classifier.pt``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no tensors by name, or cannot be read without running code from it.
    """
    file = path / CLASSIFIER_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no weights at {file}; run the stage that exports them first (it writes <run_dir>/model/{CLASSIFIER_FILE})"
        )
    way_out = (
        f"give the {CLASSIFIER_FILE} that ModelExport wrote, a checkpoint of an image module, or a state dict saved "
        "with torch.save"
    )
    # The options in the released code's checkpoints are a Namespace.
    content = read_torch_file(file, way_out, safe=[argparse.Namespace])
    tensors = _tensors(content)
    if tensors is None:
        raise ValueError(
            f"{file} holds no weights: it has {_described(content)}, where an exported classifier has the keys "
            "backbone, num_classes and state_dict, and a state dict has tensors by name"
        )
    options = content.get("hyper_parameters", content)
    backbone, classes, kind = (options.get(name) for name in ("backbone", "num_classes", "label_kind"))
    return ClassifierWeights(
        _bare_names(tensors),
        backbone if isinstance(backbone, str) else None,
        classes if isinstance(classes, int) else None,
        kind if isinstance(kind, str) else None,
    )


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Names of a timm network's last layer, or layers."""
    names: str | tuple[str, ...] = network.default_cfg["classifier"]  # type: ignore[index,assignment] # timm's name
    return (names,) if isinstance(names, str) else tuple(names)


def in_head(name: str, network: nn.Module) -> bool:
    """Whether a tensor of that name is the last layer's."""
    return name.startswith(tuple(f"{head}." for head in head_names(network)))


def check_fit(path: Path, state: Mapping[str, Tensor], network: nn.Module, backbone: str) -> None:
    """Refuse tensors that are of another network than ``network``, whatever the file says of itself.

    Raises:
        ValueError: if shapes differ, tensors are missing, or there are more in the network's own blocks.
    """
    own = network.state_dict()
    blocks = {_block(name) for name in own}
    wrong = [
        f"{name} is {_shape(tensor)} in the file and {_shape(own[name])} in the network"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    # Counters of batches are no weights, and files of old torch versions lack them. The head is checked before.
    missing = [
        f"the file lacks {name}"
        for name in own
        if name not in state and not name.endswith("num_batches_tracked") and not in_head(name, network)
    ]
    surplus = [f"the network has no {name}" for name in state if name not in own and _block(name) in blocks]
    differences = [*wrong, *missing, *surplus]
    if differences:
        more = f", and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(
            f"{path} holds weights of another network than {backbone}: {'; '.join(differences[:_SHOWN])}{more}. "
            "Set backbone to the network they were trained with, or give other weights"
        )


def taken_sentence(path: Path, taken: Iterable[str], offered: Iterable[str], network: nn.Module) -> str:
    """Say which of the network's tensors were taken, which stay, and what the file had beyond, by block."""
    own, taken = list(network.state_dict()), list(taken)
    left = [name for name in own if name not in taken]
    beyond = [name for name in offered if name not in taken]
    sentence = f"{len(taken)} of {len(own)} tensors taken from {path}: {blocks_of(taken, own)}"
    sentence += f"; left as they were: {blocks_of(left, own) if left else 'none'}"
    return sentence + f"; the file had beyond: {blocks_of(beyond, beyond) if beyond else 'none'}"


def blocks_of(names: Iterable[str], all_names: Iterable[str]) -> str:
    """Top-level blocks of tensor names, ``conv1, bn1, layer1-4``; of a block that is not whole, how much of it."""
    whole, part = _counts(all_names), _counts(names)
    labels: list[str] = []
    runs: list[tuple[str, int, int]] = []
    for block, count in part.items():
        numbered = re.fullmatch(r"(.*\D)(\d+)", block)
        if count < whole[block] or numbered is None:
            labels.append(block if count == whole[block] else f"{block} ({count} of {whole[block]})")
            runs.append(("", 0, 0))
            continue
        stem, number = numbered[1], int(numbered[2])
        if runs and runs[-1][0] == stem and runs[-1][2] == number - 1:
            runs[-1] = (stem, runs[-1][1], number)
            labels[-1] = f"{stem}{runs[-1][1]}-{number}"
        else:
            runs.append((stem, number, number))
            labels.append(block)
    return ", ".join(labels)


def _tensors(content: object) -> dict[str, Tensor] | None:
    """The state dict in a file's content: itself, or under the names that are usual; ``None`` if there is none."""
    if not isinstance(content, dict):
        return None
    for candidate in (content.get("state_dict"), content.get("model"), content):
        if isinstance(candidate, dict):
            tensors = {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors and all(isinstance(name, str) for name in tensors) and len(tensors) == len(candidate):
                return tensors
    return None


def _bare_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without wrappers; of a whole module only what is the classifier's."""
    state = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    if not any(name.startswith(_IN_MODULE) for name in state):
        return state
    return {_unwrapped(name.removeprefix(_IN_MODULE)): t for name, t in state.items() if name.startswith(_IN_MODULE)}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _block(name: str) -> str:
    return name.split(".", 1)[0]


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[_block(name)] = counts.get(_block(name), 0) + 1
    return counts


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"


def _described(content: Any) -> str:  # noqa: ANN401 - whatever a file holds
    if isinstance(content, dict):
        return f"the keys {', '.join(map(str, list(content)[:6]))}" if content else "no keys"
    return f"a {type(content).__name__}"
