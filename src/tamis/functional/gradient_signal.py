"""Is there a signal in a policy's gradient? The score of Beta cells, and how far two independent estimates agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def beta_score(cells: Tensor, log_alpha: Tensor, log_beta: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of each cell's log-density by log alpha and by log beta.

    ``d log Beta(x; a, b) / d log a = a (log x - psi(a) + psi(a + b))``, psi the digamma function, and the same for b
    with ``log(1 - x)``. Their expectation over x is 0.

    Args:
        cells: ``[..., M]`` in (0, 1).
        log_alpha: ``[..., M]``.
        log_beta: ``[..., M]``.

    Returns:
        Two tensors ``[..., M]``.
    """
    alpha, beta = log_alpha.exp(), log_beta.exp()
    both = torch.digamma(alpha + beta)
    return (
        alpha * (cells.log() - torch.digamma(alpha) + both),
        beta * (torch.log1p(-cells) - torch.digamma(beta) + both),
    )


def split_half_cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Cosine between two independent estimates of one gradient: 0 if they are noise, 1 if there is no noise in them.

    With n draws in each half, a signal of squared length S and noise of squared length N in a single draw, it is about
    ``S / (S + N / n)``: halves of other sizes give another number, so compare equal ones only.

    Args:
        first: the parts (one a parameter) of the first half's gradient, of any shapes.
        second: those of the second half.

    Returns:
        In [-1, 1]; NaN if either gradient is 0.

    Raises:
        ValueError: if the halves' parts differ in number or shape.
    """
    shapes = [[tuple(part.shape) for part in parts] for parts in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the halves must have the same parts, got shapes {shapes[0]} and {shapes[1]}")

    def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
        # In double precision, and so on the CPU: not every device has it.
        pairs = zip(left, right, strict=True)
        return sum(float(torch.dot(a.flatten().cpu().double(), b.flatten().cpu().double())) for a, b in pairs)

    length = (dot(first, first) * dot(second, second)) ** 0.5
    return dot(first, second) / length if length > 0 else float("nan")
