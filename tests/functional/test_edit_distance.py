"""The edit distance, against words worked out by hand, the table itself, and what any distance obeys."""

from __future__ import annotations

import itertools
import random

import pytest

from tamis.functional import edit_distance


def _table(first: str, second: str) -> int:
    """Wagner & Fischer 1974: the distance of every pair of beginnings."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, start=1):
        above, row[0] = row[0], i
        for j, right in enumerate(second, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def _texts(seed: int, count: int, longest: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abc\u00e9 \n", k=draw.randint(0, longest))) for _ in range(count)]


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("kitten", "sitting", 3),  # k -> s, e -> i, + g
        ("abcd", "wxyz", 4),  # all replaced
        ("abcd", "bcda", 2),  # the a is taken from the front and put at the end
        ("", "abc", 3),
        ("", "", 0),
        ("ab", "ba", 2),  # no swaps
    ],
)
def test_by_hand(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance


def test_what_the_table_says() -> None:
    texts = _texts(0, 60, 90)
    for first, second in itertools.pairwise(texts):
        assert edit_distance(first, second) == _table(first, second), (first, second)


def test_it_is_a_distance() -> None:
    texts = _texts(1, 12, 40)
    for a in texts:
        assert edit_distance(a, a) == 0
        for b in texts:
            assert edit_distance(a, b) == edit_distance(b, a) == edit_distance(a[::-1], b[::-1])
            assert (edit_distance(a, b) > 0) == (a != b)
            assert edit_distance(a + "common", b + "common") == edit_distance(a, b)
            for c in texts[:4]:
                assert edit_distance(a, b) <= edit_distance(a, c) + edit_distance(c, b)


def test_long_programs() -> None:
    """Twenty thousand characters: the table would have 4e8 cells, minutes in Python."""
    first = "x = 1\n" * 3400
    assert edit_distance(first, first.replace("1", "2", 7) + "y") == 8
