"""How far two texts are apart."""

from __future__ import annotations


def edit_distance(first: str, second: str) -> int:
    """Characters to insert, delete or replace to make one text of the other (Levenshtein 1966).

    Computed a column at a time, where the bits of two integers hold whether a cell lies one above or one below its
    neighbour (Myers 1999, "A fast bit-vector algorithm for approximate string matching", in Hyyro's 2003 form for
    whole texts): some ten operations on integers of ``len(first)`` bits for each character of the other text, where
    the table itself would take ``len(first)``.

    Args:
        first: a text.
        second: another.
    """
    if not first or not second:
        return len(first) + len(second)
    places: dict[str, int] = {}
    for index, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << index
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    above, below, distance = every, 0, len(first)
    for character in second:
        equal = places.get(character, 0)
        vertical = equal | below
        diagonal = (((equal & above) + above) ^ above) | equal
        right, left = below | (every & ~(diagonal | above)), above & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = right << 1 | 1, left << 1
        above, below = (left | ~(vertical | right)) & every, right & vertical & every
    return distance
