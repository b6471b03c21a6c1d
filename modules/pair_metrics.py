"""What the validation of a reward model measures, over all held-out pairs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional import bradley_terry_loss

_BINS = 15


class PairScore(NamedTuple):
    """The scores of a held-out pair.

    Args:
        place: file and line of the pair, which tell it from others; ``None`` where the data does not say.
        chosen: score of the better response.
        rejected: score of the worse one.
        margin: by how much the better one was to score above the worse.
    """

    place: str | None
    chosen: float
    rejected: float
    margin: float


def pair_scores(
    batch: Sequence[Mapping[str, Any]], chosen: Tensor, rejected: Tensor, margin: Tensor
) -> list[PairScore]:
    """One record a pair, for keeping until the epoch's end."""
    columns = (column.tolist() for column in (chosen, rejected, margin))
    return [PairScore(record.get("_source"), *row) for record, *row in zip(batch, *columns, strict=True)]


def each_pair_once(parts: Sequence[Sequence[PairScore]]) -> list[PairScore]:
    """All ranks' pairs without the repetitions by which distributed samplers make the ranks' shares even.

    Args:
        parts: the pairs of each rank. A sampler repeats a pair on another rank, never on the same one.
    """
    pairs: list[PairScore] = []
    seen: set[str] = set()
    for part in parts:
        pairs += [pair for pair in part if pair.place not in seen]
        seen |= {pair.place for pair in part if pair.place is not None}
    return pairs


def measure_pairs(pairs: Sequence[PairScore], centring: float = 0.0) -> dict[str, float]:
    """The numbers that are logged under ``val/``.

    ``accuracy`` counts a tie as wrong. ``auc`` compares every chosen response with every rejected one of any prompt, so
    that it tells whether a score means the same everywhere, which one prompt's pairs do not show. The chance that a
    pair's label is right is ``sigmoid(s_chosen - s_rejected)``: ``brier`` is its mean squared error, and
    ``calibration_error`` its mean distance from what really was in bins of 0 to 1 (ECE; Guo et al. 2017), each pair
    counted both ways round, since which response stands first says nothing.

    Args:
        pairs: at least one.
        centring: of the loss.
    """
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    chosen, rejected, margin = torch.tensor([pair[1:] for pair in pairs], dtype=torch.float64).unbind(dim=1)
    scores = torch.cat([chosen, rejected])
    labels = torch.cat([torch.ones_like(chosen), torch.zeros_like(rejected)]).long()
    # Ranks, because torchmetrics squeezes other numbers than probabilities through a sigmoid, where high scores tie.
    ranks = scores.unique(return_inverse=True)[1] / len(scores)
    right = torch.sigmoid(chosen - rejected)
    numbers: dict[str, Tensor] = {
        "loss": bradley_terry_loss(chosen, rejected, margin, centring),
        "accuracy": (chosen > rejected).double().mean(),
        "auc": binary_auroc(ranks, labels),
        "calibration_error": binary_calibration_error(torch.cat([right, 1 - right]), labels, n_bins=_BINS),
        "brier": ((1 - right) ** 2).mean(),
    }
    for name, values in (("chosen", chosen), ("rejected", rejected)):
        numbers |= {f"score_{name}_mean": values.mean(), f"score_{name}_std": values.std(correction=0)}
        numbers |= {f"score_{name}_min": values.min(), f"score_{name}_max": values.max()}
    return {name: float(value) for name, value in numbers.items()}
