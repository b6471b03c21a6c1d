"""Log-probability and entropy of given tokens, a chunk of tokens at a time: a vocabulary is wide, a token is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Logits that one chunk may have: 128 MiB in fp32. What has fewer is one chunk, and nothing is computed twice.
MAX_LOGITS = 2**25


class TokenScores(NamedTuple):
    """Of each token, ``[M]`` in fp32: its log-probability, and the entropy of the distribution it was drawn from."""

    log_probs: Tensor
    entropy: Tensor


def token_scores(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> TokenScores:
    """Scores from logits, in fp32 whatever their type; the graph keeps one tensor of their size.

    With ``l = log_softmax(logits / T)`` and ``p = exp(l)``: the log-probability of token a is ``l_a`` with the gradient
    ``(1[a] - p) / T`` to the logits, the entropy ``H = -sum p l`` has ``-p (l + H) / T``.

    Args:
        logits: ``[M, V]``.
        tokens: ``[M]`` int64, the token that was drawn from each.
        temperature: logits are divided by it.
    """
    scores: tuple[Tensor, Tensor] = _TokenScores.apply(logits, tokens, temperature)
    return TokenScores(*scores)


def chunked_token_scores(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    tokens: Tensor,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    max_logits: int = MAX_LOGITS,
) -> TokenScores:
    """The same from hidden states: logits exist for one chunk of tokens at a time, forward and backward.

    The backward pass computes a chunk's logits again (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost).

    Args:
        hidden: ``[M, H]``.
        head: maps ``[C, H]`` to logits ``[C, V]``.
        tokens: ``[M]`` int64.
        temperature: logits are divided by it.
        vocab_size: V; ``None`` takes everything as one chunk.
        max_logits: a chunk has at most this many logits, but at least one token.
    """

    def scores(states: Tensor, chosen: Tensor) -> TokenScores:
        return token_scores(head(states), chosen, temperature)

    size = len(hidden) if vocab_size is None else max(1, max_logits // vocab_size)
    if len(hidden) <= size:
        return scores(hidden, tokens)
    chunks = zip(hidden.split(size), tokens.split(size), strict=True)
    if torch.is_grad_enabled():
        parts = [checkpoint(scores, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    else:
        parts = [scores(*chunk) for chunk in chunks]
    return TokenScores(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _TokenScores(torch.autograd.Function):
    """Autograd would keep four tensors of the logits' size for this; one is enough."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        scaled = logits if temperature == 1 else logits.float() / temperature
        log_softmax = torch.log_softmax(scaled, dim=-1, dtype=torch.float32)
        log_probs = log_softmax.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        # A token that a model rules out has the logit -inf and adds nothing: 0 times -inf would be NaN.
        log_softmax.clamp_(min=torch.finfo(torch.float32).min)
        entropy = -torch.linalg.vecdot(log_softmax.exp(), log_softmax)
        ctx.save_for_backward(log_softmax, tokens, entropy)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.set_materialize_grads(False)
        return log_probs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_log_probs: Tensor | None,
        grad_entropy: Tensor | None,
    ) -> tuple[Tensor | None, None, None]:
        log_softmax, tokens, entropy = ctx.saved_tensors
        if grad_log_probs is None and grad_entropy is None:
            return None, None, None
        grad = log_softmax.exp().neg_()
        if grad_entropy is not None:
            weight = (log_softmax + entropy.unsqueeze(-1)).mul_(grad_entropy.unsqueeze(-1))
            grad.mul_(weight if grad_log_probs is None else weight.add_(grad_log_probs.unsqueeze(-1)))
        elif grad_log_probs is not None:
            grad.mul_(grad_log_probs.unsqueeze(-1))
        if grad_log_probs is not None:
            grad.scatter_add_(-1, tokens.unsqueeze(-1), grad_log_probs.unsqueeze(-1))
        return grad.div_(ctx.temperature).to(ctx.dtype), None, None
