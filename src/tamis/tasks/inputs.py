"""Inputs for the asserts: ordinary ones, and ones at the edges where wrong programs give themselves away."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from .grammar import Constant

# fmt: off
VOCABULARY = (
    "a", "ant", "area", "bee", "car", "deer", "ear", "eye", "fast", "green", "hers", "idea", "kayak", "less",
    "level", "moon", "near", "noon", "ocean", "orange", "queue", "rat", "red", "rose", "sea", "seas", "see",
    "star", "stars", "stone", "sun", "tar", "tea", "tree", "trees", "us", "water", "was", "yes", "zebra",
)
# fmt: on
CHARACTERS = "aaeeiorrssbcdhlmntAERSBT0123459  -."
EDGES = (-2, -1, 0, 1, 2)


def draw_inputs(rng: random.Random, family: str, constants: Sequence[Constant], count: int) -> list[tuple[Any, ...]]:
    """Draws argument tuples for one task of a family; an empty list or string is always among the first five.

    Args:
        rng: Source of chance.
        family: ``ints``, ``chars``, ``words`` or ``pairs``.
        constants: The constants of the composition; numbers next to them are drawn more often.
        count: Number of inputs.

    Raises:
        ValueError: There is no such family.
    """
    edges = [*EDGES, *(k + step for k in constants if isinstance(k, int) for step in (-1, 0, 1))]
    letters = "".join(k for k in constants if isinstance(k, str))
    if family == "pairs":
        return [_pair(rng, edges) for _ in range(count)]
    drawn: list[tuple[Any, ...]]
    if family == "ints":
        drawn = [(_integers(rng, edges),) for _ in range(count - 1)]
        empty: tuple[Any, ...] = ([],)
    elif family == "chars":
        drawn = [(_string(rng, letters),) for _ in range(count - 1)]
        empty = ("",)
    elif family == "words":
        drawn = [([_word(rng, letters) for _ in range(rng.randint(1, 5))],) for _ in range(count - 1)]
        empty = ([],)
    else:
        raise ValueError(f"There is no family {family!r}; choose 'ints', 'chars', 'words' or 'pairs'.")
    drawn.insert(rng.randrange(5), empty)
    return drawn


def _integer(rng: random.Random, edges: Sequence[int]) -> int:
    return rng.choice(edges) if rng.random() < 0.4 else rng.randint(-9, 12)


def _integers(rng: random.Random, edges: Sequence[int]) -> list[int]:
    values = [_integer(rng, edges) for _ in range(rng.randint(1, 5))]
    return [*values, rng.choice(values)] if rng.random() < 0.4 else values


def _pair(rng: random.Random, edges: Sequence[int]) -> tuple[int, int]:
    a = _integer(rng, edges)
    return a, a if rng.random() < 0.2 else _integer(rng, edges)


def _string(rng: random.Random, letters: str) -> str:
    pool = CHARACTERS + letters * 3
    return "".join(rng.choice(pool) for _ in range(rng.randint(2, 8)))


def _word(rng: random.Random, letters: str) -> str:
    if rng.random() < 0.06:
        return ""
    word = rng.choice(VOCABULARY)
    if letters.isalpha() and rng.random() < 0.25:
        return rng.choice((letters[0] + word, word + letters[0]))
    return word.upper() if rng.random() < 0.1 else word
