from __future__ import annotations

import pytest
import torch

from tamis.rollout import Rollout


def _rollout() -> Rollout:
    return Rollout(
        group_ids=torch.tensor([7, 3, 7, 3]),
        actions=torch.arange(8).view(4, 2),
        response_mask=torch.ones(4, 2, dtype=torch.bool),
        rewards=torch.tensor([0.0, 1.0, 2.0, 3.0]),
        observations={"prompt_ids": torch.arange(4).view(4, 1)},
        records=[{"row": row} for row in range(4)],
    )


def test_select_takes_every_field_along() -> None:
    chosen = _rollout().select(torch.tensor([2, 0, 2]))
    assert chosen.group_ids.tolist() == [7, 7, 7]
    assert chosen.actions.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert chosen.rewards is not None
    assert chosen.rewards.tolist() == [2.0, 0.0, 2.0]
    assert chosen.observations["prompt_ids"].tolist() == [[2], [0], [2]]
    assert [record["row"] for record in chosen.records] == [2, 0, 2]
    assert chosen.values is None


def test_groups_go_by_id_and_not_by_position() -> None:
    assert _rollout().groups().tolist() == [[1, 3], [0, 2]]


def test_the_first_row_of_each_group() -> None:
    first, place = _rollout().first_of_each_group()
    assert first.tolist() == [1, 0]
    assert place.tolist() == [1, 0, 1, 0]


def test_unequal_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got groups of \[1, 2\]"):
        _rollout().select(torch.tensor([0, 1, 2])).groups()


def test_split_puts_together_again() -> None:
    parts = list(_rollout().split(2))
    assert [part.group_ids.tolist() for part in parts] == [[7, 3], [7, 3]]
    with pytest.raises(ValueError, match="4 rows cannot be split into 3 equal parts"):
        list(_rollout().split(3))


def test_detach_cuts_every_graph() -> None:
    weight = torch.ones(4, requires_grad=True)
    rollout = _rollout().replace(environment_loss=weight * 2, observations={"x": weight * 3})
    assert rollout.detach().environment_loss is not None
    assert not rollout.detach().environment_loss.requires_grad  # type: ignore[union-attr]
    assert not rollout.detach().observations["x"].requires_grad


def test_rows_must_be_indices() -> None:
    with pytest.raises(ValueError, match="int64"):
        _rollout().select(torch.tensor([True, False, True, False]))
