"""Minibatches of several ranks, and what filters keep there, are what one process makes of the same groups."""

from __future__ import annotations

import pytest
import torch

from tamis.callbacks.minibatches import deal, minibatches
from tamis.rollout import Rollout
from tamis.seeding import generator_of


def rollout(groups: int, rows: int) -> Rollout:
    ids = torch.arange(groups).repeat_interleave(rows)
    return Rollout(ids, torch.arange(groups * rows).unsqueeze(1), torch.ones(groups * rows, 1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("groups", "rows", "count", "ranks"),
    [(8, 4, 4, 2), (8, 4, 4, 8), (8, 2, 8, 2), (6, 3, 3, 2), (6, 3, 3, 3), (4, 4, 8, 2), (12, 1, 3, 4), (5, 2, 2, 5)],
)
def test_every_rank_has_as_many_rows_of_every_minibatch(groups: int, rows: int, count: int, ranks: int) -> None:
    numbers = deal((groups, rows), count, generator_of("deal"))
    assert numbers.shape == (groups, rows)
    for rank in range(ranks):
        counts = numbers[rank::ranks].flatten().bincount(minlength=count)
        assert counts.tolist() == [groups * rows // count // ranks] * count


def test_a_row_comes_into_any_minibatch_as_often_and_with_any_other() -> None:
    """But for the rows of its class, of which a minibatch has a fixed number: here one group's."""
    generator = generator_of("deal")
    dealt = torch.stack([deal((4, 3), 3, generator).flatten() for _ in range(3000)])
    shares = torch.nn.functional.one_hot(dealt, 3).float().mean(dim=0)
    torch.testing.assert_close(shares, torch.full((12, 3), 1 / 3), atol=0.04, rtol=0)
    together = (dealt.unsqueeze(1) == dealt.unsqueeze(2)).float().mean(dim=0)
    same_group = torch.arange(12) // 3 == (torch.arange(12) // 3).unsqueeze(1)
    expected = torch.where(same_group, 0.0, 1 / 3).fill_diagonal_(1.0)
    torch.testing.assert_close(together, expected, atol=0.04, rtol=0)


def test_minibatches_hold_every_row_once_in_the_rollouts_order() -> None:
    whole = rollout(6, 4).select(torch.randperm(24, generator=generator_of("order")))  # as sorting by length leaves it
    parts = [part.actions.flatten().tolist() for part in minibatches(whole, 8, generator_of("parts"))]
    place = whole.actions.flatten().tolist()
    assert sorted(row for part in parts for row in part) == list(range(24))
    assert all([place.index(row) for row in part] == sorted(place.index(row) for row in part) for part in parts)
    again = [part.actions.flatten().tolist() for part in minibatches(whole, 8, generator_of("others"))]
    assert parts != again


def test_pairs_stay_together_and_groups_may_differ_in_size() -> None:
    for part in minibatches(rollout(6, 2), 4, generator_of("pairs"), together=2):
        rows = part.actions.flatten()
        assert (rows[1::2] - rows[0::2]).tolist() == [1, 1]
    uneven = rollout(6, 2).replace(group_ids=torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]))
    parts = [part.actions.flatten() for part in minibatches(uneven, 3, generator_of("uneven"))]
    assert torch.cat(parts).sort().values.tolist() == list(range(12))
