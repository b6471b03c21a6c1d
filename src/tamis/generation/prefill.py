"""Reading the prompts: their keys and values, and the logits that follow each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Prompts read at a time: enough to keep a processor busy, few enough that short ones are not padded to the longest.
_ROWS = 16


def position_ids(mask: Tensor) -> Tensor:
    """``[B, T]`` positions that count real tokens only, so that padding on the left changes nothing."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def by_length(mask: Tensor, size: int | None) -> Iterator[Tensor]:
    """The rows' numbers: all in their order, or in parts of at most ``size`` by rising length."""
    if size is None or size >= len(mask):
        yield torch.arange(len(mask), device=mask.device)
        return
    yield from mask.sum(dim=1).argsort(stable=True).split(max(size, 1))


def prefill(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, DynamicCache]:
    """``[P, V]`` logits of the first new token and the cache, as one forward of the whole batch would leave them.

    Prompts of similar length are read together and their caches joined, with nothing in the places of the padding.

    Args:
        model: any decoder-only model of transformers.
        prompt_ids: ``[P, L]`` token ids, padded on the left.
        prompt_mask: ``[P, L]`` True where a token is real.
    """
    parts = list(by_length(prompt_mask, _ROWS))
    if len(parts) == 1:
        return _read(model, prompt_ids, prompt_mask)
    widths = prompt_mask.sum(dim=1)[torch.stack([part[-1] for part in parts])].tolist()
    read = [
        _read(model, prompt_ids[part, -width:], prompt_mask[part, -width:])
        for part, width in zip(parts, widths, strict=True)
    ]
    back = torch.cat(parts).argsort()
    return torch.cat([logits for logits, _ in read])[back], _join([cache for _, cache in read], back)


def _read(model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, DynamicCache]:
    from transformers import DynamicCache

    cache = DynamicCache()
    output = model(
        input_ids=prompt_ids,
        attention_mask=prompt_mask.long(),
        position_ids=position_ids(prompt_mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], cache


def _join(caches: list[DynamicCache], order: Tensor) -> DynamicCache:
    """One cache of all rows, in the given order; shorter ones get empty places on the left."""
    from transformers import DynamicCache

    joined = DynamicCache()
    width = max(cache.get_seq_length() for cache in caches)
    for number, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = (
            torch.cat([F.pad(tensor, (0, 0, width - tensor.shape[-2], 0)) for tensor in tensors])[order]
            for tensors in zip(*((layer.keys, layer.values) for layer in layers), strict=True)
        )
        joined.update(keys, values, number)
    return joined
