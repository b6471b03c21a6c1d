"""Splitting images that come without a split: whole groups, such as patients, the same for everybody who asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch


def check_shares(shares: Sequence[float]) -> None:
    """Raise ValueError unless the shares are those of a split: the first above 0, none below, in sum 1."""
    if not shares or shares[0] <= 0 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(
            f"the shares of the splits must sum to 1, that of training above 0 and none below, got {tuple(shares)}"
        )


def split_rows(groups: Sequence[str], labels: Sequence[str], shares: Sequence[float], seed: int) -> list[int]:
    """Give each row a split, all rows of a group the same.

    Classes come one after the other, those with the fewest groups first; each of a class's groups, the largest first
    and equal ones in random order, goes where the class lacks most, as in the iterative stratification of Sechidis et
    al. 2011 (section 3.2). What a small class cannot give a split, the next ones make up. The first group of a class
    goes to the first split if the class has none there.

    Args:
        groups: of each row, such as its patient; the file's name where rows need not stay together.
        labels: of each row.
        shares: of the rows, a split each, the first for training; in sum 1.
        seed: of the random order. The split depends on the rows, not on their order.

    Returns:
        A position in ``shares`` for each row.

    Raises:
        ValueError: if the shares are none, or a split with a share got no row.
    """
    check_shares(shares)
    members: dict[str, Counter[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        members.setdefault(group, Counter())[label] += 1
    splits = _split_groups(members, shares, seed)
    chosen = [splits[group] for group in groups]
    used = set(splits.values())
    empty = [share for split, share in enumerate(shares) if share > 0 and split not in used]
    if empty:
        raise ValueError(
            f"{len(members)} groups (patients, or files without them) are too few to be split by {tuple(shares)}: "
            f"nothing is left for the share of {empty[0]}; give other shares, or 0 for a split that is not needed"
        )
    return chosen


def _split_groups(members: dict[str, Counter[str]], shares: Sequence[float], seed: int) -> dict[str, int]:
    """The split of each group, of which ``members`` counts the rows by class."""
    names = sorted(members)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    groups_of: dict[str, list[str]] = {}
    for position in order:
        for label in members[names[position]]:
            groups_of.setdefault(label, []).append(names[position])
    totals: Counter[str] = Counter()
    for counts in members.values():
        totals.update(counts)
    filled = {label: [0] * len(shares) for label in groups_of}
    rows = [0] * len(shares)
    splits: dict[str, int] = {}
    for label in sorted(groups_of, key=lambda name: (len(groups_of[name]), name)):
        left = sorted((name for name in groups_of[label] if name not in splits), key=lambda name: -members[name][label])
        slack = totals[label] / len(groups_of[label])  # a group's size: what earlier classes lack may shift no more
        carry = [max(-slack, min(slack, share * sum(rows) - row)) for share, row in zip(shares, rows, strict=True)]
        wanted = [share * totals[label] + extra for share, extra in zip(shares, carry, strict=True)]
        for name in left:
            split = 0 if filled[label][0] == 0 else _most_lacking(wanted, filled[label], shares)
            splits[name] = split
            rows[split] += members[name].total()
            for of_group, count in members[name].items():
                filled[of_group][split] += count
    return splits


def _most_lacking(wanted: list[float], filled: list[int], shares: Sequence[float]) -> int:
    """The split that is furthest from what it wants, among those with a share; the first of equals."""
    return max(
        (split for split, share in enumerate(shares) if share > 0),
        key=lambda split: wanted[split] - filled[split],
    )
