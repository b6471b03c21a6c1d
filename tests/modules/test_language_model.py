"""Loading, scoring and saving language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tamis.modules.action_scores import score_actions
from tamis.modules.language_model import (
    TokenBatch,
    format_prompts,
    load_causal_lm,
    load_tokenizer,
    pad,
    save_language_model,
    tokenize,
)


def _scored(model: Any, prompts: list[list[int]], responses: list[list[int]], extra_left: int = 0) -> torch.Tensor:
    batch = pad(prompts, 0, "left")
    batch = TokenBatch(*(torch.nn.functional.pad(tensor, (extra_left, 0)) for tensor in batch))
    actions = pad(responses, 0, "right")
    with torch.no_grad():
        return score_actions(model, batch, actions.ids, actions.mask, temperature=0.7).log_probs


def test_log_probs_equal_a_slow_reference(tiny_model: str) -> None:
    """One row at a time, without padding, step by step."""
    model = load_causal_lm(tiny_model)
    prompts, responses = [[5, 6, 7], [8], [9, 10, 11, 12]], [[20, 21], [22, 23, 24], [25]]
    together = _scored(model, prompts, responses)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        for step, token in enumerate(response):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + response[:step]])).logits[0, -1]
            expected = torch.log_softmax(logits / 0.7, -1)[token]
            assert together[row, step].item() == pytest.approx(expected.item(), abs=1e-5)
        assert (together[row, len(response) :] == 0).all()


def test_padding_on_the_left_changes_nothing(tiny_model: str) -> None:
    model = load_causal_lm(tiny_model)
    args = [[5, 6, 7], [8]], [[20, 21], [22, 23]]
    torch.testing.assert_close(_scored(model, *args, extra_left=5), _scored(model, *args), atol=1e-5, rtol=0)


def test_entropy_of_a_uniform_model_is_the_log_of_the_vocabulary(tiny_model: str) -> None:
    model = load_causal_lm(tiny_model)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    batch, actions = pad([[5, 6]], 0, "left"), pad([[7, 8]], 0, "right")
    entropy = score_actions(model, batch, actions.ids, actions.mask, 1.0).entropy
    torch.testing.assert_close(entropy, torch.full((1, 2), float(torch.tensor(model.config.vocab_size).log())))


def test_merged_lora_equals_the_adapter(tiny_model: str, tmp_path: Path) -> None:
    model = load_causal_lm(tiny_model, lora_rank=4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_language_model(model, load_tokenizer(tiny_model), tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        adapted, merged = model(input_ids=ids).logits, load_causal_lm(str(tmp_path))(input_ids=ids).logits
        base = load_causal_lm(tiny_model)(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(base, adapted, atol=1e-2)


def test_text_survives_the_tokenizer(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    text = 'def f(xs):\n    """Sum é, 123."""\n'
    assert tokenizer.decode(tokenize(tokenizer, [text])[0], clean_up_tokenization_spaces=False) == text


def test_chat_wants_a_template(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    with pytest.raises(ValueError, match="chat template; use prompt_format: plain"):
        format_prompts(tokenizer, ["hello"], "chat")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    assert format_prompts(tokenizer, ["hello"], "chat") == ["<user>hello<assistant>"]


@pytest.mark.parametrize("path", ["runs/nowhere/sft/model", "./nowhere", "/nowhere/model", "nowhere/model.gguf"])
def test_a_missing_folder_is_named(path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no model folder '{path}'"):
        load_causal_lm(path)


def test_a_tokenizer_without_an_end_is_refused(tiny_model: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((Path(tiny_model) / "config.json").read_text())
    with pytest.raises(ValueError, match="has no end token"):
        load_tokenizer(str(tmp_path))
