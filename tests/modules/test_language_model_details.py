"""What other models than ours would notice: absolute positions, dropout, tokenizers with habits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tamis.generation import sample
from tamis.modules.action_scores import score_actions
from tamis.modules.language_model import (
    TokenBatch,
    disable_dropout,
    format_prompts,
    load_causal_lm,
    load_tokenizer,
    pad,
    save_language_model,
    tokenize,
)


def _gpt2(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=1,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():  # sharper than at initialisation
        parameter.data.mul_(3.0)
    return model.train()


def _llama(dropout: float) -> Any:
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        attention_dropout=dropout,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def _log_probs(model: Any, extra_left: int = 0) -> torch.Tensor:
    prompts, actions = pad([[5, 6, 7], [8]], 0, "left"), pad([[20, 21], [22]], 0, "right")
    prompts = TokenBatch(*(torch.nn.functional.pad(tensor, (extra_left, 0)) for tensor in prompts))
    with torch.no_grad():
        scores = score_actions(model, prompts, actions.ids, actions.mask, 1.0)
    assert (scores.entropy[~actions.mask] == 0).all()
    assert (scores.entropy[actions.mask] > 0).all()
    return scores.log_probs


def test_absolute_positions_do_not_count_padding() -> None:
    model = _gpt2().eval()
    torch.testing.assert_close(_log_probs(model, extra_left=7), _log_probs(model), atol=1e-5, rtol=1e-5)


def test_padding_comes_last_and_columns_of_it_alone_are_left_out() -> None:
    """So that causal attention never sees it, and the model needs neither mask nor positions."""
    model, given = _gpt2(), []
    model.transformer.register_forward_pre_hook(lambda _, __, named: given.append(named), with_kwargs=True)
    _log_probs(model, extra_left=3)
    assert given[0]["input_ids"].tolist() == [[5, 6, 7, 20, 21], [8, 22, 0, 0, 0]]
    assert set(given[0]) == {"input_ids", "use_cache"}


@pytest.mark.parametrize("make", [_gpt2, _llama])
def test_dropout_is_off_in_training_mode_too(make: Any) -> None:
    model = make(0.5)
    assert not torch.equal(_log_probs(model), _log_probs(model))
    disable_dropout(model)
    assert model.training
    assert torch.equal(_log_probs(model), _log_probs(model))


def test_a_begin_token_is_not_put_in_front(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    plain = tokenize(tokenizer, ["xs"])
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{end[0]} $A", special_tokens=[end])
    assert tokenizer("xs")["input_ids"][0] == end[1]
    assert tokenize(tokenizer, ["xs"]) == plain


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_model: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((Path(tiny_model) / "config.json").read_text())
    again = load_tokenizer(str(tmp_path))
    assert again.pad_token_id == again.eos_token_id is not None


def test_a_chat_ends_where_the_assistant_begins(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ messages[0].content }}{% if add_generation_prompt %}<assistant>{% endif %}"
    assert format_prompts(tokenizer, ["hello"], "chat") == ["hello<assistant>"]


def test_saving_leaves_the_adapter_in_training(tiny_model: str, tmp_path: Path) -> None:
    model = load_causal_lm(tiny_model, lora_rank=2)
    names = list(model.state_dict())
    save_language_model(model, load_tokenizer(tiny_model), tmp_path)
    assert isinstance(model, PeftModel)
    assert list(model.state_dict()) == names
    assert any("lora" in name for name in names)


def _sample(model: Any, ids: list[list[int]], **options: Any) -> Any:
    prompts = pad(ids, 0, "left")
    defaults = {"max_new_tokens": 8, "eos_token_ids": [1], "pad_token_id": 0, "temperature": 0.0}
    return sample(model, prompts.ids, prompts.mask, **{**defaults, **options})


def test_the_samples_of_a_prompt_stand_side_by_side() -> None:
    """Greedily the samples of one prompt are alike, and those of different prompts are not."""
    model, prompts = _gpt2(), [[5], [7, 8, 9, 10], [11, 12, 13]]
    one, three = _sample(model, prompts), _sample(model, prompts, num_samples=3)
    assert len({tuple(row) for row in one.tokens.tolist()}) == 3
    assert torch.equal(three.tokens, one.tokens.repeat_interleave(3, 0))
    assert torch.equal(three.response_mask, one.response_mask.repeat_interleave(3, 0))


def test_sampling_is_without_dropout_and_without_graphs() -> None:
    model, prompts = _gpt2(dropout=0.5), [[5, 6], [7, 8]]
    grad: list[bool] = []
    model.register_forward_pre_hook(lambda *_: grad.append(torch.is_grad_enabled()))
    assert torch.equal(_sample(model, prompts).tokens, _sample(model, prompts).tokens)
    assert not any(grad)
    assert model.training


def test_columns_behind_the_longest_response_are_cut_off() -> None:
    """Every token ends a response, so none is longer than one."""
    samples = _sample(_gpt2(), [[5, 6], [7, 8]], eos_token_ids=list(range(32)), max_new_tokens=5)
    assert samples.tokens.shape == samples.response_mask.shape == (2, 1)
    assert samples.response_mask.all()
    assert not samples.truncated.any()
