"""Scoring given responses with a causal language model, without ever holding the logits of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..functional.token_scores import MAX_LOGITS, chunked_token_scores
from .language_model import TokenBatch, padding_last, scatter
from .sharding import causal_of, forward_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ActionScores(NamedTuple):
    """Scores of given responses, ``[B, T]`` each, and the ``[M, H]`` hidden states that the M tokens came from."""

    log_probs: Tensor
    entropy: Tensor
    states: Tensor


def score_actions(
    model: PreTrainedModel,
    prompts: TokenBatch,
    actions: Tensor,
    response_mask: Tensor,
    temperature: float,
    max_logits: int = MAX_LOGITS,
) -> ActionScores:
    """Log-probability and entropy of each response token, in fp32, from one forward of prompt and response.

    The model's head sees response tokens only, a chunk at a time. Rows are padded on the right for the transformer.

    Args:
        model: a causal language model.
        prompts: ``[B, L]``, padded on the left.
        actions: ``[B, T]`` response tokens.
        response_mask: ``[B, T]`` bool.
        temperature: the one that the responses were sampled with; logits are divided by it.
        max_logits: logits that exist at a time, see `chunked_token_scores`.

    Raises:
        TypeError: for a model whose transformer and head cannot be told apart.
    """
    causal = causal_of(model)
    return forward_of(
        causal, lambda: _scores(causal, _trunk(causal), prompts, actions, response_mask, temperature, max_logits)
    )


def _scores(
    causal: Any,  # noqa: ANN401
    trunk: nn.Module,
    prompts: TokenBatch,
    actions: Tensor,
    response_mask: Tensor,
    temperature: float,
    max_logits: int,
) -> ActionScores:
    mask = torch.cat([prompts.mask, response_mask], dim=1)
    order = padding_last(mask)
    output = trunk(input_ids=torch.cat([prompts.ids, actions], dim=1).gather(1, order), use_cache=False)
    before = torch.zeros_like(mask)
    before[:, -actions.shape[1] - 1 : -1] = response_mask  # the state before a token predicts it
    states = output.last_hidden_state[before.gather(1, order)]

    def head(states: Tensor) -> Tensor:
        with _given_states(trunk, type(output)(last_hidden_state=states.unsqueeze(0))):
            logits: Tensor = causal.forward(inputs_embeds=states.unsqueeze(0), use_cache=False).logits[0]
        if len(logits) != len(states):
            raise TypeError(f"{type(causal).__name__} does not give one distribution a token; it cannot be scored")
        return logits

    vocab_size = int(causal.get_output_embeddings().weight.shape[0])
    tokens = actions[response_mask]
    scores = chunked_token_scores(states, head, tokens, temperature, vocab_size, max_logits)
    log_probs, entropy = (scatter(values, response_mask) for values in scores)
    return ActionScores(log_probs, entropy, states)


def _trunk(causal: Any) -> nn.Module:  # noqa: ANN401
    trunk: nn.Module = causal.get_decoder()
    if trunk is causal or causal.get_output_embeddings() is None:
        raise TypeError(
            f"the transformer and the head of {type(causal).__name__} cannot be told apart, which scoring needs; use a "
            "decoder-only model of transformers with a language modelling head (AutoModelForCausalLM)"
        )
    return trunk


@contextmanager
def _given_states(trunk: nn.Module, output: Any) -> Iterator[None]:  # noqa: ANN401
    """Inside, the model takes these hidden states for its transformer's, and does with them whatever it always does.

    Applying the head ourselves would go wrong without a word for models that scale, cap or bias their logits behind it
    (Gemma 2, Cohere, Granite, and whoever comes next).

    Raises:
        TypeError: if the model never asked its transformer.
    """
    asked: list[bool] = []

    def forward(*_: object, **__: object) -> Any:  # noqa: ANN401
        asked.append(True)
        return output

    own = trunk.__dict__.get("forward")  # libraries that move layers between devices put one here
    trunk.forward = forward
    try:
        yield
    finally:
        del trunk.forward
        if own is not None:
            trunk.forward = own
    if not asked:
        raise TypeError("the model computes its logits without its own transformer; it cannot be scored in chunks")
