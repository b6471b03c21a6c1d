"""The loop and transformers' own ``generate`` draw alike; buckets change nothing; the model is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tamis.generation import Samples, StopStrings, row_noise, sample, sample_with_transformers
from tamis.generation.modes import generation_mode
from tamis.modules.language_model import load_causal_lm, load_tokenizer, pad, tokenize

EOS, PAD = 1, 0
PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12], [13], [14, 15, 16], [17, 18, 19, 20, 21]]


def _llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():  # sharper than at initialisation, so that greedy text varies
        parameter.data.mul_(3.0)
    return model


def _gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=EOS
    )
    model: Any = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    return model


def _draw(draw: Any, model: Any, **options: Any) -> Samples:
    prompts = pad(PROMPTS, PAD, "left")
    defaults = {"max_new_tokens": 20, "eos_token_ids": [EOS, 2], "pad_token_id": PAD, "num_samples": 3}
    samples: Samples = draw(model, prompts.ids, prompts.mask, **{**defaults, **options})
    return samples


def _equal(first: Samples, second: Samples) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _noise() -> Tensor:
    return row_noise([str(row) for row in range(15)], 20)


@pytest.mark.parametrize("make", [_llama, _gpt2])
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.8}, {"temperature": 1.0, "top_p": 0.8}])
@pytest.mark.parametrize("padding", [PAD, EOS])
def test_both_ways_draw_the_same(make: Any, options: dict[str, float], padding: int) -> None:
    """Greedy text, and sampled text too; several end tokens; padding that is an end token."""
    noise = {} if options["temperature"] == 0 else {"noise": _noise()}
    results = [
        _draw(way, make(), **options, **noise, pad_token_id=padding) for way in (sample, sample_with_transformers)
    ]
    assert _equal(*results)
    if options["temperature"] > 0:
        assert 0 < int(results[0].truncated.sum()) < 15


def test_both_ways_take_the_same_numbers_from_a_generator() -> None:
    ways = (sample, sample_with_transformers)
    first, second = (_draw(way, _llama(), generator=torch.Generator().manual_seed(5)) for way in ways)
    assert _equal(first, second)


@pytest.mark.parametrize("padding_is_end", [False, True])
def test_both_ways_stop_at_the_rows_own_strings(padding_is_end: bool, tiny_model: str) -> None:
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    prompts = pad(tokenize(tokenizer, ["def f(xs):\n", "def longer(name):\n    return"]), 0, "left")
    options: dict[str, Any] = {
        "max_new_tokens": 24,
        "eos_token_ids": [tokenizer.eos_token_id],
        "pad_token_id": tokenizer.eos_token_id if padding_is_end else tokenizer.pad_token_id,
        "num_samples": 6,
        "noise": row_noise([str(row) for row in range(12)], 24),
    }
    stops = StopStrings(tokenizer, [["e"], ["a", "x"], []] * 4)
    first, second = (
        way(model, prompts.ids, prompts.mask, stops=stops, **options) for way in (sample, sample_with_transformers)
    )
    assert _equal(first, second)
    lengths = first.response_mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 3
    assert 0 < int(first.truncated.sum()) < 12


def test_a_models_own_settings_for_generation_are_left_aside() -> None:
    """A chat model's folder may ask for a nucleus or a penalty: rollouts would not follow what scoring says."""
    model = _llama()
    expected = _draw(sample, model, noise=_noise())
    own = transformers.GenerationConfig(top_k=1, do_sample=True, repetition_penalty=5.0, max_length=3, min_length=19)
    model.generation_config = own
    assert _equal(_draw(sample_with_transformers, model, noise=_noise()), expected)
    assert model.generation_config is own


@pytest.mark.parametrize("way", [sample, sample_with_transformers])
@pytest.mark.parametrize("max_rows", [1, 4, 6, 14, 15, 100])
def test_buckets_change_no_draw(way: Any, max_rows: int) -> None:
    expected = _draw(sample, _llama(), noise=_noise())
    assert _equal(_draw(way, _llama(), noise=_noise(), max_rows=max_rows), expected)
    generators = (torch.Generator().manual_seed(5) for _ in range(2))
    free, cut = (_draw(way, _llama(), generator=next(generators), max_rows=rows) for rows in (None, max_rows))
    assert _equal(free, cut)


def _inputs(model: Any) -> list[tuple[int, ...]]:
    """Filled with the shape of the ids of every forward."""
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True)
    return shapes


def test_prompts_of_similar_length_go_together() -> None:
    """Lengths 2, 6, 1, 3, 5, two prompts at a time: (1, 2), (3, 5) and (6), each as wide as its longest."""
    model = _llama()
    shapes = _inputs(model)
    _draw(sample, model, max_rows=6, max_new_tokens=1)
    assert shapes == [(2, 2), (2, 5), (1, 6)]


@pytest.mark.parametrize("way", [sample, sample_with_transformers])
def test_a_model_that_checkpoints_still_decodes_with_its_cache(way: Any) -> None:
    model = _llama().train()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    shapes = _inputs(model)
    checkpointed = [name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)]
    assert checkpointed
    _draw(way, model, noise=_noise())
    assert [shape[1] for shape in shapes] == [6] + [1] * (len(shapes) - 1)
    assert model.training
    assert model.config.use_cache is False
    assert checkpointed == [
        name for name, module in model.named_modules() if getattr(module, "gradient_checkpointing", False)
    ]


@pytest.mark.parametrize("way", [sample, sample_with_transformers])
def test_an_exception_leaves_the_model_as_it_was(way: Any) -> None:
    model = _llama().train()
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    model.config.use_cache = False
    own = model.generation_config
    states: list[tuple[bool, bool, bool]] = []

    def fail(*_: Any) -> None:
        layer = model.model.layers[1]
        states.append((layer.training, layer.gradient_checkpointing, model.config.use_cache))
        if len(states) == 3:
            raise RuntimeError("in the middle")

    handle = model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        _draw(way, model, noise=_noise())
    handle.remove()
    assert states == [(False, False, True)] * 3
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
    assert model.model.layers[1].gradient_checkpointing
    assert model.config.use_cache is False
    assert model.generation_config is own
    with generation_mode(model):
        assert not model.training


def test_what_was_generated_inside_an_adapter_is_the_adapters(tiny_model: str) -> None:
    model, tokenizer = load_causal_lm(tiny_model, lora_rank=2), load_tokenizer(tiny_model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    prompts = pad(tokenize(tokenizer, ["def f(xs):\n"]), 0, "left")
    options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_ids": [0], "pad_token_id": 1, "temperature": 0.0}
    ours = sample(model, prompts.ids, prompts.mask, **options)
    theirs = sample_with_transformers(model, prompts.ids, prompts.mask, **options)
    bare = sample(load_causal_lm(tiny_model), prompts.ids, prompts.mask, **options)
    assert _equal(ours, theirs)
    assert not torch.equal(ours.tokens, bare.tokens)
