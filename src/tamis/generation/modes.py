"""The state that a model is in while it only speaks, and its way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every sub-module's own mode restored afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def generation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with the key-value cache on and gradient checkpointing off; all three restored afterwards.

    Checkpointing throws away what the cache keeps: transformers turns the cache off beside it, and decoding would read
    the whole text again for every token.
    """
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    config = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    try:
        for module in checkpointed:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        if use_cache is not None:
            config.use_cache = True  # type: ignore[union-attr]
        with evaluation_mode(model):
            yield
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        if use_cache is not None:
            config.use_cache = use_cache  # type: ignore[union-attr]
