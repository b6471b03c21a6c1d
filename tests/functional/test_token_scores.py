"""Log-probabilities and entropies of tokens, by hand, against plain autograd, and in any number of chunks."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from tamis.functional.token_scores import chunked_token_scores, token_scores


def _inputs(rows: int = 7, width: int = 5, vocab: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float32)
    weight = 2 * torch.randn(vocab, width, generator=generator, dtype=torch.float32)
    return hidden, weight, torch.randint(vocab, (rows,), generator=generator)


def _plain(hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The definition in double precision."""
    log_softmax = torch.log_softmax(hidden.double() @ weight.double().T / temperature, -1)
    rows = range(len(tokens))
    log_probs = torch.stack([log_softmax[row, tokens[row]] for row in rows])
    entropy = torch.stack([-sum(number.exp() * number for number in log_softmax[row]) for row in rows])
    return log_probs, entropy


def test_two_tokens_by_hand() -> None:
    """Logits ln 9 and 0 at temperature 2: 3 to 1, so p = 3/4 and 1/4."""
    logits = torch.tensor([[math.log(9.0), 0.0]], requires_grad=True)
    scores = token_scores(logits, torch.tensor([1]), temperature=2.0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert scores.log_probs.item() == pytest.approx(math.log(0.25), abs=1e-6)
    assert scores.entropy.item() == pytest.approx(entropy, abs=1e-6)
    (grad,) = torch.autograd.grad(scores.log_probs.sum(), logits, retain_graph=True)
    torch.testing.assert_close(grad, torch.tensor([[-0.375, 0.375]]))  # (1[a] - p) / 2
    (grad,) = torch.autograd.grad(scores.entropy.sum(), logits)
    first = -0.75 * (math.log(0.75) + entropy) / 2  # -p (ln p + H) / 2
    torch.testing.assert_close(grad, torch.tensor([[first, -first]]))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("max_logits", [1, 22, 33, 10_000])
def test_chunks_equal_the_definition_in_value_and_gradient(max_logits: int, temperature: float) -> None:
    """7 tokens of 11 logits: one, two, three or all at a time."""
    hidden, weight, tokens = _inputs()
    grads = []
    factors = torch.linspace(-1, 2, 7), torch.linspace(3, -1, 7)
    for chunked in (True, False):
        states, matrix = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        head = functools.partial(torch.nn.functional.linear, weight=matrix)
        scores: tuple[Tensor, Tensor] = (
            chunked_token_scores(states, head, tokens, temperature, 11, max_logits)
            if chunked
            else _plain(states, matrix, tokens, temperature)
        )
        torch.stack([(factor * score).sum() for factor, score in zip(factors, scores, strict=True)]).sum().backward()
        grads.append((*(score.detach().double() for score in scores), states.grad, matrix.grad))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("index", [0, 1])
def test_each_score_alone_has_its_gradient(index: int) -> None:
    hidden, weight, tokens = _inputs()
    logits = (hidden @ weight.T).double().requires_grad_()
    ours = torch.autograd.grad(token_scores(logits, tokens)[index].sum(), logits)[0]
    log_softmax = torch.log_softmax(logits, -1)
    plain = (log_softmax.gather(1, tokens[:, None]).sum(), -(log_softmax.exp() * log_softmax).sum())[index]
    torch.testing.assert_close(ours, torch.autograd.grad(plain, logits)[0], atol=1e-6, rtol=1e-5)


def test_half_precision_logits_are_scored_in_fp32() -> None:
    hidden, weight, tokens = _inputs()
    logits = (8 * hidden @ weight.T).bfloat16().requires_grad_()
    scores, exact = token_scores(logits, tokens), token_scores(logits.detach().float(), tokens)
    assert scores.log_probs.dtype == scores.entropy.dtype == torch.float32
    assert torch.equal(scores.log_probs, exact.log_probs)
    scores.log_probs.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_a_token_that_is_ruled_out_adds_nothing() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0]], requires_grad=True)
    scores = token_scores(logits, torch.tensor([0]))
    expected = token_scores(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    torch.testing.assert_close(scores.entropy, expected.entropy)
    torch.testing.assert_close(scores.log_probs, expected.log_probs)
    (scores.entropy + scores.log_probs).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == 0


@pytest.mark.parametrize("max_logits", [1, 10_000])
def test_no_tokens_have_no_scores(max_logits: int) -> None:
    hidden, weight, tokens = _inputs(rows=0)
    scores = chunked_token_scores(hidden, lambda part: part @ weight.T, tokens, 1.0, 11, max_logits)
    assert [score.shape for score in scores] == [(0,), (0,)]


@pytest.mark.parametrize("grad", [True, False])
def test_the_head_sees_one_chunk_at_a_time(grad: bool) -> None:
    """5 chunks of at most 3 tokens forward; the same ones again backward, and none again without gradients."""
    hidden, weight, tokens = _inputs(rows=13)
    seen: list[int] = []

    def head(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part @ weight.T

    with torch.set_grad_enabled(grad):
        scores = chunked_token_scores(hidden.requires_grad_(), head, tokens, 1.0, 11, 3 * 11 + 5)
    assert seen == [3, 3, 3, 3, 1]
    if grad:
        (scores.log_probs.sum() + scores.entropy.sum()).backward()
        assert sorted(seen[5:]) == [1, 3, 3, 3, 3]
