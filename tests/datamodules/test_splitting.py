"""Splitting by patient: whole groups, near the shares, whatever the order of the rows."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tamis.datamodules.splitting import check_shares, split_rows

SHARES = (0.75, 0.1, 0.15)


def random_rows(seed: int, patients: int = 400, rows: int = 4000) -> tuple[list[str], list[str]]:
    """Patients of very different sizes with images of several classes, classes in a long tail."""
    draw = random.Random(seed)
    groups = [f"p{min(patients, int(draw.paretovariate(0.4)) % patients)}" for _ in range(rows)]
    labels = [f"class{min(12, int(draw.paretovariate(0.7)))}" for _ in range(rows)]
    return groups, labels


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_splits(seed: int) -> None:
    groups, labels = random_rows(seed)
    chosen = split_rows(groups, labels, SHARES, seed)
    assert len(set(zip(groups, chosen, strict=True))) == len(set(groups))


@pytest.mark.parametrize("seed", range(5))
def test_permuted_rows_are_split_alike(seed: int) -> None:
    groups, labels = random_rows(seed)
    chosen = split_rows(groups, labels, SHARES, 3)
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    permuted = split_rows([groups[row] for row in order], [labels[row] for row in order], SHARES, 3)
    assert permuted == [chosen[row] for row in order]


def test_one_seed_is_one_split_and_another_another() -> None:
    groups = [f"{number}.png" for number in range(200)]
    labels = ["a", "b"] * 100
    assert split_rows(groups, labels, SHARES, 0) == split_rows(groups, labels, SHARES, 0)
    assert split_rows(groups, labels, SHARES, 0) != split_rows(groups, labels, SHARES, 1)


def test_single_images_get_each_class_its_shares() -> None:
    labels = ["a"] * 100 + ["b"] * 40 + ["c"] * 20
    chosen = split_rows([f"{number}" for number in range(160)], labels, SHARES, 0)
    counts = Counter(zip(labels, chosen, strict=True))
    # 75, 10 and 15 of a hundred; 30, 4 and 6 of forty; 15, 2 and 3 of twenty
    golden = {"a": (75, 10, 15), "b": (30, 4, 6), "c": (15, 2, 3)}
    assert counts == {(name, split): count for name, of in golden.items() for split, count in enumerate(of)}


def test_what_small_classes_cannot_give_the_next_ones_make_up() -> None:
    """Thirty classes of three images: two or three to train on each, and yet near the shares as a whole."""
    labels = [f"class{number // 3:02d}" for number in range(90)]
    chosen = split_rows([f"{number}" for number in range(90)], labels, SHARES, 0)
    counts = Counter(chosen)
    # Of 90: 67.5, 9 and 13.5
    assert abs(counts[0] - 67.5) <= 1.5
    assert abs(counts[1] - 9) <= 1.5
    assert abs(counts[2] - 13.5) <= 1.5
    trained = Counter(label for label, split in zip(labels, chosen, strict=True) if split == 0)
    assert len(trained) == 30
    assert set(trained.values()) <= {1, 2, 3}


@pytest.mark.parametrize("seed", range(3))
def test_groups_come_near_the_shares_in_each_class(seed: int) -> None:
    draw = random.Random(seed)
    groups = [f"p{draw.randrange(2000)}" for _ in range(20_000)]
    labels = [f"class{min(9, int(draw.paretovariate(0.7)))}" for _ in range(20_000)]
    chosen = split_rows(groups, labels, SHARES, seed)
    totals = Counter(labels)
    counts = Counter(zip(labels, chosen, strict=True))
    for name, total in totals.items():
        for split, share in enumerate(SHARES):
            assert counts[name, split] / total == pytest.approx(share, abs=0.035)


def test_a_large_group_goes_where_it_fits() -> None:
    """Of 100 rows a patient has 60: in any split but training he would drive out the others."""
    groups = ["big"] * 60 + [f"p{number}" for number in range(40)]
    for seed in range(10):
        chosen = split_rows(groups, ["a"] * 100, SHARES, seed)
        assert chosen[0] == 0
        assert Counter(chosen) == {0: 75, 1: 10, 2: 15}


@pytest.mark.parametrize("seed", range(10))
def test_every_class_that_can_be_is_trained_on(seed: int) -> None:
    """A class of one patient must be in training, even if the patient's other images would fit elsewhere."""
    groups = [f"p{number}" for number in range(50)] + ["p3", "p4"]
    labels = ["common"] * 50 + ["rare", "rarer"]
    chosen = split_rows(groups, labels, (0.2, 0.4, 0.4), seed)
    assert {label for label, split in zip(labels, chosen, strict=True) if split == 0} == set(labels)


def test_a_split_without_a_share_gets_nothing() -> None:
    chosen = split_rows([f"{number}" for number in range(20)], ["a", "b"] * 10, (0.5, 0, 0.5), 0)
    assert Counter(chosen) == {0: 10, 2: 10}


# Bad input


def test_too_few_groups_are_named() -> None:
    with pytest.raises(ValueError, match=r"1 groups .* are too few .* nothing is left for the share of 0.1"):
        split_rows(["p"] * 10, ["a"] * 10, SHARES, 0)


@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (0.0, 1.0), (1.5, -0.5)])
def test_shares_that_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must sum to 1, that of training above 0 and none below, got"):
        check_shares(shares)
