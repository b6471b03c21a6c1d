"""Drawing tokens: the nucleus and the rows' own noise, against slow loops and the exact distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tamis.generation.choosing import Chooser, row_noise


def _slow_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Take the most likely tokens one by one until they have the probability asked for."""
    kept, total = [], 0.0
    for token in sorted(range(len(probabilities)), key=lambda token: -float(probabilities[token])):
        if total >= top_p:
            break
        kept.append(token)
        total += float(probabilities[token])
    nucleus = torch.zeros_like(probabilities)
    nucleus[kept] = probabilities[kept]
    return nucleus / nucleus.sum()


def _frequencies(choose: Chooser, logits: Tensor, draws: int) -> Tensor:
    tokens = choose(logits.expand(draws, -1), torch.arange(draws), 0)
    return torch.bincount(tokens, minlength=len(logits)) / draws


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.62, 0.9, 1.0])
def test_draws_follow_the_nucleus(top_p: float) -> None:
    logits = 2 * torch.randn(12, generator=torch.Generator().manual_seed(3))
    draws = 20_000
    noise = torch.rand(draws, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frequencies = _frequencies(Chooser(0.8, top_p, noise), logits, draws)
    expected = _slow_nucleus(torch.softmax(logits / 0.8, -1), top_p)
    torch.testing.assert_close(frequencies, expected, atol=0.015, rtol=0)
    assert ((frequencies > 0) <= (expected > 0)).all()  # what is outside the nucleus never comes


def test_each_row_has_a_nucleus_of_its_own() -> None:
    """By hand: of (0.5, 0.3, 0.2) half the probability is the first token, of (0.2, 0.4, 0.4) the last two."""
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4]]).log().repeat(500, 1)
    noise = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = Chooser(1.0, 0.5, noise)(logits, torch.arange(1000), 0).view(500, 2)
    assert set(tokens[:, 0].tolist()) == {0}
    assert set(tokens[:, 1].tolist()) == {1, 2}


def test_the_noise_is_inverted_by_hand() -> None:
    """Probabilities 0.25, 0, 0.5, 0.25 stack up to 0.25, 0.25, 0.75, 1: the number falls into a token's share."""
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(6, -1)
    noise = torch.tensor([[0.0], [0.2499], [0.2501], [0.7499], [0.7501], [1 - 2**-53]], dtype=torch.float64)
    assert Chooser(noise=noise)(logits, torch.arange(6), 0).tolist() == [0, 0, 2, 2, 3, 3]


def test_noise_belongs_to_its_key() -> None:
    first, second = row_noise(["a", "b"], 5), row_noise(["b", "c", "a"], 3)
    assert torch.equal(first[0, :3], second[2])
    assert torch.equal(first[1, :3], second[0])
    assert len({*first[0].tolist(), *first[1].tolist(), *second[1].tolist()}) == 13
    many = row_noise([str(number) for number in range(200)], 100)
    assert many.mean().item() == pytest.approx(0.5, abs=0.01)
    assert 0 <= many.min().item() < 0.001
    assert 0.999 < many.max().item() < 1


@pytest.mark.parametrize(("temperature", "top_p"), [(-0.1, 1.0), (1.0, 0.0), (1.0, 1.5)])
def test_options_out_of_range_are_named(temperature: float, top_p: float) -> None:
    wrong = temperature if temperature < 0 else top_p
    with pytest.raises(ValueError, match=f"got {wrong}"):
        Chooser(temperature, top_p)


def test_drawing_needs_noise() -> None:
    with pytest.raises(ValueError, match="needs noise"):
        Chooser(1.0)
    assert Chooser(0.0)(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0]), 0).tolist() == [1]
