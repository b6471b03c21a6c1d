"""Which images a few-shot run trains on: k of each class, the same in every process that asks with one seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_shots(labels: Tensor, class_names: Sequence[str], shots: int, seed: int) -> Tensor:
    """Draw ``shots`` rows of each class.

    A generator of its own draws them, so that every rank, worker and later stage gets the same rows whatever else drew
    random numbers. With one seed the rows of fewer shots are among those of more, so a curve over k adds images.

    Args:
        labels: ``[N]`` int64, positions in ``class_names``.
        class_names: all classes.
        shots: k, at least 1.
        seed: of the draw.

    Returns:
        ``[len(class_names) * shots]`` int64 rows in rising order.

    Raises:
        ValueError: naming the classes with fewer than ``shots`` images.
    """
    rows = [(labels == label).nonzero().flatten() for label in range(len(class_names))]
    short = [f"{name} ({len(found)})" for name, found in zip(class_names, rows, strict=True) if len(found) < shots]
    if short:
        raise ValueError(
            f"shots asks for {shots} training images of each class, but fewer are there of "
            f"{', '.join(short[:5])}{' ...' if len(short) > 5 else ''}; lower shots, or leave these "
            "classes out by without_classes (RadImageNet: or by class_list: found)"
        )
    generator = torch.Generator().manual_seed(seed)
    # A whole permutation of each class: how many of it are kept must not change what the next class draws.
    drawn = [found[torch.randperm(len(found), generator=generator)[:shots]] for found in rows]
    return torch.cat(drawn).sort().values
