"""What must hold for any decoder-only model of transformers: Llama, Qwen2, GPT-2, and models with habits of their own.

Rotary and learned positions, grouped heads, tied and untied heads; logits that are scaled or capped behind the head.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tamis.generation import sample
from tamis.generation.prefill import position_ids
from tamis.modules.action_scores import score_actions
from tamis.modules.language_model import TokenBatch, pad

EOS, PAD, VOCAB = 1, 0, 32
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_tied": ("Llama", {**_SIZES, "tie_word_embeddings": True}),
    "llama_grouped_untied": ("Llama", {**_GROUPED, "tie_word_embeddings": False}),
    "qwen2_grouped_tied": ("Qwen2", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen2_untied": ("Qwen2", {**_SIZES, "num_key_value_heads": 4, "tie_word_embeddings": False}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
}
# Their logits are not the head's output; OPT has its transformer two levels down.
HABITS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2_caps": ("Gemma2", {**_GROUPED, "head_dim": 8, "final_logit_softcapping": 2.0}),
    "cohere_scales": ("Cohere", {**_SIZES, "logit_scale": 0.3}),
    "granite_divides": ("Granite", {**_GROUPED, "logits_scaling": 3.0}),
    "opt_nests": ("OPT", {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "mixtral_routes": ("Mixtral", {**_GROUPED, "num_local_experts": 2}),
}


def _model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    family, sizes = (FAMILIES | HABITS)[name]
    common = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    config = getattr(transformers, f"{family}Config")(**common, **sizes, **options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # sharper than at initialisation, so that greedy text varies
        parameter.data.mul_(3.0)
    return model


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
RESPONSES = [[20, 21], [22, 23, 24, EOS], [25]]


def _naive(model: Any, prompts: TokenBatch, actions: TokenBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """All logits at once, as the definition has it."""
    mask = torch.cat([prompts.mask, actions.mask], dim=1)
    ids = torch.cat([prompts.ids, actions.ids], dim=1)
    output = model(input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False)
    logits = output.logits[:, -actions.ids.shape[1] - 1 : -1]
    log_softmax = torch.log_softmax(logits.float() / temperature, dim=-1)
    log_probs = log_softmax.gather(-1, actions.ids.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
    return torch.where(actions.mask, log_probs, 0.0), torch.where(actions.mask, entropy, 0.0)


@pytest.mark.parametrize("name", [*FAMILIES, *HABITS])
@pytest.mark.parametrize("max_logits", [2 * VOCAB, 10_000])
def test_scores_and_gradients_equal_the_naive_way(name: str, max_logits: int) -> None:
    """7 response tokens, two at a time and all at once."""
    model = _model(name)
    prompts, actions = pad(PROMPTS, PAD, "left"), pad(RESPONSES, PAD, "right")
    results = []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            log_probs, entropy, _ = score_actions(model, prompts, actions.ids, actions.mask, 0.7, max_logits=max_logits)
        else:
            log_probs, entropy = _naive(model, prompts, actions, 0.7)
        (log_probs.sum() - 0.3 * entropy.sum()).backward()
        # Mixtral's gradients go through the choice of experts, which is the same in both.
        results.append((log_probs.detach(), entropy.detach(), [parameter.grad for parameter in model.parameters()]))
    (log_probs, entropy, grads), (naive_log_probs, naive_entropy, naive_grads) = results
    torch.testing.assert_close(log_probs, naive_log_probs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, naive_entropy, atol=2e-6, rtol=1e-6)
    assert [grad is None for grad in grads] == [grad is None for grad in naive_grads]
    for grad, naive in zip(grads, naive_grads, strict=True):
        if naive is not None:
            scale = naive.abs().max().item()  # 1e-6 of the tensor's largest number: some gradients are large
            torch.testing.assert_close(grad, naive, atol=1e-6 * max(scale, 1.0) * 2, rtol=1e-5)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation returns, backward included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return result


def _kept_by_the_graph(score: Any) -> tuple[Any, int]:
    """What the forward pass leaves for the backward one, in numbers."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = score()
    return loss, sum(kept.values())


def test_logits_of_all_tokens_never_exist() -> None:
    """8 rows of 40 tokens, 4,096 words: 1.3 M logits in the naive way, at most 32,768 at a time in ours."""
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model: Any = transformers.LlamaForCausalLM(config)
    prompts = pad([[5, 6, 7]] * 8, PAD, "left")
    actions = pad([list(range(10, 50))] * 8, PAD, "right")
    limit = 8 * 4096

    def ours() -> Tensor:
        scores = score_actions(model, prompts, actions.ids, actions.mask, 0.7, max_logits=limit)
        return scores.log_probs.sum() + scores.entropy.sum()

    def naive() -> Tensor:
        return torch.stack(_naive(model, prompts, actions, 0.7)).sum()

    largest, kept = {}, {}
    for name, score in (("ours", ours), ("naive", naive)):
        with _Largest() as seen:
            loss, kept[name] = _kept_by_the_graph(score)
            loss.backward()
        largest[name] = seen.numbers
    weights = config.vocab_size * config.hidden_size
    assert largest["naive"] >= 8 * 40 * 4096
    assert largest["ours"] <= max(limit, weights)
    assert kept["ours"] < kept["naive"] / 20


def test_the_head_is_asked_for_response_positions_only() -> None:
    model, asked = _model("llama_tied"), []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].shape[:-1].numel()))
    prompts, actions = pad(PROMPTS, PAD, "left"), pad(RESPONSES, PAD, "right")
    score_actions(model, prompts, actions.ids, actions.mask, 1.0)
    assert asked == [7]


def test_the_model_is_left_as_it_was_also_after_an_exception() -> None:
    model = _model("gemma2_caps")
    prompts, actions = pad(PROMPTS, PAD, "left"), pad(RESPONSES, PAD, "right")
    handle = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score_actions(model, prompts, actions.ids, actions.mask, 1.0)
    handle.remove()
    assert "forward" not in model.model.__dict__
    model(input_ids=torch.tensor([[5, 6]]))


def test_a_transformer_without_a_head_is_refused() -> None:
    prompts, actions = pad(PROMPTS, PAD, "left"), pad(RESPONSES, PAD, "right")
    with pytest.raises(TypeError, match="LlamaModel cannot be told apart"):
        score_actions(_model("llama_tied").model, prompts, actions.ids, actions.mask, 1.0)


def _scores(model: Any, prompts: list[list[int]], responses: list[list[int]], left: int = 0, right: int = 0) -> Tensor:
    batch, actions = pad(prompts, PAD, "left"), pad(responses, PAD, "right")
    batch = TokenBatch(*(torch.nn.functional.pad(tensor, (left, 0)) for tensor in batch))
    actions = TokenBatch(*(torch.nn.functional.pad(tensor, (0, right)) for tensor in actions))
    with torch.no_grad():
        scores = score_actions(model, batch, actions.ids, actions.mask, 0.7)
    states = torch.zeros(*actions.mask.shape, scores.states.shape[1])
    states[actions.mask] = scores.states
    together = torch.cat([scores.log_probs.unsqueeze(-1), scores.entropy.unsqueeze(-1), states], -1)
    return together[:, : actions.ids.shape[1] - right]


@pytest.mark.parametrize("name", [*FAMILIES, *HABITS])
def test_padding_and_company_change_no_score(name: str) -> None:
    """Log-probabilities, entropies and hidden states of a row alone, padded on either side, and with longer rows."""
    model = _model(name)
    together = _scores(model, PROMPTS, RESPONSES)
    torch.testing.assert_close(_scores(model, PROMPTS, RESPONSES, left=6), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(_scores(model, PROMPTS, RESPONSES, right=5), together, atol=1e-5, rtol=1e-5)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = _scores(model, [prompt], [response])[0]
        torch.testing.assert_close(together[row, : len(response)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pad_token_that_is_the_end_token_changes_nothing(name: str) -> None:
    model = _model(name)
    results = []
    for padding in (PAD, EOS):
        prompts = pad(PROMPTS, padding, "left")
        noise = torch.rand(12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        drawn = sample(
            model, prompts.ids, prompts.mask, max_new_tokens=10, eos_token_ids=[EOS], pad_token_id=padding,
            num_samples=4, noise=noise,
        )  # fmt: skip
        wide = TokenBatch(*(tensor.repeat_interleave(4, 0) for tensor in prompts))
        with torch.no_grad():
            scores = score_actions(model, wide, drawn.tokens, drawn.response_mask, 1.0)
        results.append((drawn, scores))
    (first, first_scores), (second, second_scores) = results
    assert torch.equal(first.response_mask, second.response_mask)
    assert torch.equal(first.tokens[first.response_mask], second.tokens[first.response_mask])
    ends = first.tokens[torch.arange(12), first.response_mask.sum(1) - 1] == EOS
    assert torch.equal(ends, ~first.truncated)
    assert ends.any()
    torch.testing.assert_close(first_scores.log_probs, second_scores.log_probs, atol=1e-5, rtol=1e-5)
    assert (first_scores.log_probs[first.response_mask] < 0).all()  # that of the end token, too


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_drawn_from_what_scoring_says(name: str) -> None:
    """At temperature 0.6 each step's noise falls into the share that scoring gives to the token drawn."""
    model, prompts = _model(name), pad(PROMPTS, PAD, "left")
    noise = torch.rand(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = sample(
        model, prompts.ids, prompts.mask, max_new_tokens=8, eos_token_ids=[EOS, 2], pad_token_id=PAD, num_samples=2,
        temperature=0.6, noise=noise,
    )  # fmt: skip
    wide = TokenBatch(*(tensor.repeat_interleave(2, 0) for tensor in prompts))
    mask = drawn.response_mask
    below = torch.zeros(mask.shape, dtype=torch.float64)
    with torch.no_grad():
        for token in range(VOCAB):
            # Scoring what was drawn but for one token in each place would change what follows: score place by place.
            for step in range(mask.shape[1]):
                actions = drawn.tokens[:, : step + 1].clone()
                actions[:, step] = token
                scores = score_actions(model, wide, actions, mask[:, : step + 1], 0.6).log_probs[:, step]
                below[:, step] += torch.where(token < drawn.tokens[:, step], scores.double().exp(), 0.0)
        own = score_actions(model, wide, drawn.tokens, mask, 0.6).log_probs.double().exp()
    noise = noise[:, : mask.shape[1]]
    assert (below[mask] - 1e-5 <= noise[mask]).all()
    assert (noise[mask] <= (below + own)[mask] + 1e-5).all()
