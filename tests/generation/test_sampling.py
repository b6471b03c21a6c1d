"""Sampling, against transformers' own generate and the exact softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tamis.generation import sample
from tamis.generation.modes import evaluation_mode
from tamis.generation.prefill import position_ids

EOS, PAD = 1, 0


def _model(name: str) -> Any:
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 32, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    rotary: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    models: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common, **rotary, tie_word_embeddings=True)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, **rotary, num_key_value_heads=2)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    }
    model = models[name]().eval()
    for parameter in model.parameters():  # sharper than at initialisation, so that greedy text varies
        parameter.data.mul_(3.0)
    return model


def _prompts() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[PAD, PAD, 5, 6], [7, 8, 9, 10], [PAD, 11, 12, 13], [14, 15, 16, 17]])
    return ids, ids != PAD


def _greedy(model: Any, ids: torch.Tensor, mask: torch.Tensor, new: int = 12) -> list[list[int]]:
    samples = sample(model, ids, mask, max_new_tokens=new, eos_token_ids=[EOS], pad_token_id=PAD, temperature=0.0)
    return [row[keep].tolist() for row, keep in zip(samples.tokens, samples.response_mask, strict=True)]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_greedy_text_equals_transformers_generate(name: str) -> None:
    model = _model(name)
    ids, mask = _prompts()
    expected = model.generate(
        input_ids=ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=12, pad_token_id=PAD
    )[:, ids.shape[1] :].tolist()
    for ours, theirs in zip(_greedy(model, ids, mask), expected, strict=True):
        assert ours == theirs[: len(ours)]
        assert all(token == PAD for token in theirs[len(ours) :])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_and_company_change_nothing(name: str) -> None:
    model = _model(name)
    ids, mask = _prompts()
    together = _greedy(model, ids, mask)
    alone = [
        _greedy(model, row[keep].unsqueeze(0), keep[keep].unsqueeze(0))[0] for row, keep in zip(ids, mask, strict=True)
    ]
    assert together == alone


def test_rows_stop_at_their_end_token_and_say_so() -> None:
    model = _model("llama")
    ids, mask = _prompts()
    generator = torch.Generator().manual_seed(0)
    samples = sample(
        model, ids, mask, max_new_tokens=40, eos_token_ids=[EOS, 2], pad_token_id=PAD, num_samples=16,
        generator=generator,
    )  # fmt: skip
    lengths = samples.response_mask.sum(dim=1)
    ended = [int(row[length - 1]) in (EOS, 2) for row, length in zip(samples.tokens, lengths, strict=True)]
    assert ended == (~samples.truncated).tolist()
    assert 0 < sum(ended) < 64
    for row, keep in zip(samples.tokens, samples.response_mask, strict=True):
        inside = row[keep][:-1]
        assert not torch.isin(inside, torch.tensor([EOS, 2])).any()
        assert (row[~keep] == PAD).all()


def test_samples_follow_the_softmax_at_the_temperature() -> None:
    model = _model("llama")
    ids, mask = _prompts()
    samples = sample(
        model, ids[1:2], mask[1:2], max_new_tokens=1, eos_token_ids=[EOS], pad_token_id=PAD, num_samples=20_000,
        temperature=0.7, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        logits = model(input_ids=ids[1:2]).logits[0, -1]
    frequency = torch.bincount(samples.tokens[:, 0], minlength=32) / 20_000
    torch.testing.assert_close(frequency, torch.softmax(logits / 0.7, -1), atol=0.015, rtol=0)


def test_the_generator_makes_it_reproducible() -> None:
    model = _model("llama")
    ids, mask = _prompts()
    draws = [
        sample(
            model, ids, mask, max_new_tokens=8, eos_token_ids=[EOS], pad_token_id=PAD,
            generator=torch.Generator().manual_seed(seed),
        ).tokens
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_modes_are_restored_after_an_exception() -> None:
    model = _model("llama")
    model.train()
    model.model.layers[0].eval()
    inside = []

    def fail() -> None:
        with evaluation_mode(model):
            inside.append(model.training)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside == [False]
    assert model.training
    assert not model.model.layers[0].training


def test_right_padding_is_refused() -> None:
    ids, mask = _prompts()
    with pytest.raises(ValueError, match="padded on the left"):
        sample(_model("llama"), ids, mask.flip(1), max_new_tokens=1, eos_token_ids=[EOS], pad_token_id=PAD)


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
