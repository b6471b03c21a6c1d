"""The frozen policy that the KL penalty measures from, and frozen networks that wait on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from .adapters import add_frozen_copy, as_reference, is_adapter
from .language_model import Precision, check_same_vocabulary, load_causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def make_reference(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    policy_path: str,
    path: str | None,
    dtype: Precision,
) -> PreTrainedModel | None:
    """A second model as the reference; ``None`` where the policy's own base is it.

    Args:
        policy: as it starts. Of one that goes on from an adapter the adapter is kept in it a second time, frozen.
        tokenizer: of the policy.
        policy_path: where it came from.
        path: of another model as the reference.
        dtype: of the reference's weights.

    Raises:
        ValueError: for a reference with another vocabulary than the policy's.
    """
    from peft import PeftModel

    if path is not None:
        check_same_vocabulary(tokenizer, path, "reference_path")
    elif isinstance(policy, PeftModel):
        if is_adapter(policy_path):
            add_frozen_copy(policy, policy_path)
        return None
    return load_causal_lm(path or policy_path, dtype=dtype).requires_grad_(False)


@contextmanager
def reference_at_hand(
    policy: PreTrainedModel, reference: PreTrainedModel | None, device: torch.device
) -> Iterator[PreTrainedModel]:
    """The model that is the reference inside the context, on the device.

    Args:
        policy: which is its own reference, without its adapter or with the frozen one, if there is no other.
        reference: of `make_reference`.
        device: where to score.
    """
    if reference is None:
        with as_reference(policy):
            yield policy
    else:
        with resident(reference, device):
            yield reference


def keep_aside(owner: nn.Module, name: str, model: nn.Module) -> None:
    """Make a frozen network an attribute of a module, and no part of it.

    Trainer and strategies move, wrap and save a module's parts; this one stays where it is until `resident` fetches it.
    """
    owner.__dict__[name] = model


@contextmanager
def resident(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, a frozen network is on the device; afterwards its weights are the very ones that waited where they were.

    Nothing is copied back: the weights cannot have changed, and the copy on the device is dropped.
    """
    slots = [(module, key) for module in model.modules() for key in (*module._parameters, *module._buffers)]
    homes = [
        (module, key, tensor, tensor.data) for module, key in slots if (tensor := getattr(module, key)) is not None
    ]
    if all(home.device == device for *_, home in homes):
        yield
        return
    home_device = homes[0][-1].device
    try:
        model.to(device)
        yield
    finally:
        for module, key, tensor, home in homes:
            tensor.data = home
            (module._parameters if key in module._parameters else module._buffers)[key] = tensor
        model.to(home_device)  # moves nothing any more; a LightningModule is told where it is
