"""Which of a prompt's samples make a preference pair."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..functional import edit_distance
from ..modules.reward_failures import FAILURE

PairChoice = Literal["all", "max_edit_distance", "random", "hardest"]
PairLabel = Literal["tests", "reward"]
Sample = Mapping[str, Any]


class Pair(NamedTuple):
    """Two samples of a prompt.

    Args:
        good: the better one.
        bad: the other.
    """

    good: Sample
    bad: Sample


def candidates(group: Sequence[Sample], label: PairLabel) -> list[Pair]:
    """All pairs of different texts of which one is better, in sampling order.

    Left out are empty texts, which no reward model is to be trained on, those that have no verdict (or, by reward, no
    reward of their own), and those that passed one time and failed another.

    Args:
        group: samples of one prompt.
        label: what makes one better.
    """
    known = [sample for sample in group if sample["completion"].strip() and _is_known(sample, label)]
    first: dict[str, Sample] = {}
    verdicts: dict[str, set[bool]] = {}
    for sample in known:
        first.setdefault(sample["completion"], sample)
        verdicts.setdefault(sample["completion"], set()).add(sample["passed"])
    distinct = [sample for text, sample in first.items() if label == "reward" or len(verdicts[text]) == 1]
    return [
        Pair(good, bad)
        for good in distinct
        for bad in distinct
        if good["completion"] != bad["completion"] and _worth(good, label) > _worth(bad, label)
    ]


def choose_pairs(pairs: Sequence[Pair], choice: PairChoice, seed: str) -> list[Pair]:
    """All of them, or the one that was asked for; the first in order where several are alike.

    Args:
        pairs: of one prompt.
        choice: which.
        seed: of ``random``.
    """
    if not pairs or choice == "all":
        return list(pairs)
    if choice == "max_edit_distance":
        return [max(pairs, key=lambda pair: edit_distance(pair.good["completion"], pair.bad["completion"]))]
    if choice == "hardest":
        own = [pair for pair in pairs if FAILURE not in pair.good and FAILURE not in pair.bad]
        return sorted(own, key=lambda pair: pair.good["reward"] - pair.bad["reward"])[:1]
    return [random.Random(seed).choice(pairs)]


def _is_known(sample: Sample, label: PairLabel) -> bool:
    return sample["status"] != "internal" if label == "tests" else FAILURE not in sample


def _worth(sample: Sample, label: PairLabel) -> float:
    return float(sample["passed"] if label == "tests" else sample["reward"])
