"""Reading prompts in parts of similar length leaves what one forward of all of them leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tamis.generation.prefill import _read, by_length, prefill

SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "llama": ("Llama", {}),
    "qwen2_grouped": ("Qwen2", {"num_key_value_heads": 2}),
    "mistral_sees_three_tokens": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 3}),
    "gemma2_sees_three_tokens": ("Gemma2", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 3}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
}


def _model(name: str) -> Any:
    torch.manual_seed(0)
    family, options = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**SIZES, **options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # sharper than at initialisation
        parameter.data.mul_(3.0)
    return model


def _prompts(rows: int = 40) -> tuple[Tensor, Tensor]:
    """Of 1 to 12 tokens, in no order."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(12) >= torch.randint(12, (rows, 1), generator=generator)
    mask[rows // 2] = True
    return torch.randint(2, 32, mask.shape, generator=generator) * mask, mask


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_parts_leave_what_one_forward_leaves(name: str) -> None:
    model = _model(name)
    ids, mask = _prompts()
    whole, parts = _read(model, ids, mask), prefill(model, ids, mask)
    torch.testing.assert_close(parts[0], whole[0], atol=1e-5, rtol=1e-5)
    real = mask[:, None, :, None]
    for ours, theirs in zip(parts[1].layers, whole[1].layers, strict=True):
        for name in ("keys", "values"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            torch.testing.assert_close(mine * real, other * real, atol=1e-5, rtol=1e-5)
    # And what is decoded behind them is the same.
    step: dict[str, Any] = {"attention_mask": torch.cat([mask, mask[:, -1:]], 1).long(), "use_cache": True}
    step |= {"input_ids": whole[0].argmax(-1, keepdim=True), "position_ids": mask.sum(1, keepdim=True)}
    ours, theirs = (model(past_key_values=cache, **step).logits for cache in (parts[1], whole[1]))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_short_prompts_are_not_padded_to_the_longest() -> None:
    model, (ids, mask), shapes = _model("llama"), _prompts(), []
    model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    with torch.no_grad():
        prefill(model, ids, mask)
    lengths = sorted(mask.sum(dim=1).tolist())
    assert shapes == [(16, lengths[15]), (16, lengths[31]), (8, 12)]
    assert lengths[15] < lengths[31] < 12


def test_parts_hold_every_row_once_by_rising_length() -> None:
    _, mask = _prompts(10)
    parts = list(by_length(mask, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    rows = torch.cat(parts)
    assert sorted(rows.tolist()) == list(range(10))
    assert mask.sum(dim=1)[rows].diff().min() >= 0
    assert [part.tolist() for part in by_length(mask, None)] == [list(range(10))]
