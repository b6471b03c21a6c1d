"""How the next token is taken from the logits: greedily, or drawn at a temperature from all tokens or a nucleus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chooser:
    """Chooses one token a row.

    Args:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_p: draw from the smallest set of most likely tokens that together have this probability (Holtzman et al.
            2020); 1 draws from all.
        noise: ``[R, T]`` numbers in [0, 1), one a row and step: a row's tokens do not depend on which rows are beside
            it. Drawing by one number a row is also several times faster than ``torch.multinomial``, which draws one for
            each word of the vocabulary. Only the temperature 0 needs none.

    Raises:
        ValueError: for options out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or above, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie above 0 and at most at 1 (all tokens), got {self.top_p}")
        if self.temperature > 0 and self.noise is None:
            raise ValueError("drawing at a temperature above 0 needs noise: one number a row and step")

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """``[B]`` token ids.

        Args:
            logits: ``[B, V]``.
            rows: ``[B]`` which row of the noise each row of the logits has.
            step: how many tokens each row has already.
        """
        if self.temperature == 0 or self.noise is None:
            return logits.argmax(dim=-1)
        scores = logits.float() / self.temperature
        if self.top_p < 1:
            scores = _nucleus(scores, self.top_p)
        return _invert(scores, self.noise[rows, step])


def row_noise(keys: Sequence[str], length: int) -> Tensor:
    """``[R, length]`` uniform numbers in double precision: row r depends on ``keys[r]`` and on nothing else.

    Args:
        keys: one text a row, say of seed, task and sample.
        length: numbers a row.
    """
    noise = torch.empty(len(keys), length, dtype=torch.float64)
    for row, key in zip(noise, keys, strict=True):
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        row.uniform_(generator=torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1))
    return noise


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    from transformers import TopPLogitsWarper

    kept: Tensor = TopPLogitsWarper(top_p)(None, scores)
    return kept


def _invert(scores: Tensor, noise: Tensor) -> Tensor:
    """The token at which the cumulative probability passes the noise; never one of probability 0."""
    cumulative = torch.softmax(scores, dim=-1, dtype=torch.float64).cumsum(dim=-1)
    place = noise.to(cumulative).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, place, right=True).squeeze(1)
