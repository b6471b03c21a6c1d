"""GAE, shaping and baselines, against tables worked out by hand and slow references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tamis.functional import gae, last_step, leave_one_out_baseline, scale_by_group_std, shape_rewards


def _mask(lengths: list[int], width: int) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def test_gae_by_hand() -> None:
    """Lengths 0, 1, T-1 and T with gamma 1/2 and lambda 1/2, so gamma * lambda = 1/4.

    Row of length 3: r = (0, 0, 1), V = (1/2, 1/2, 1/2).
    delta_2 = 1 - 1/2 = 1/2; delta_1 = 0 + 1/4 - 1/2 = -1/4; delta_0 = -1/4.
    A_2 = 1/2; A_1 = -1/4 + 1/8 = -1/8; A_0 = -1/4 - 1/32 = -9/32.
    Row of length 2: A_1 = 1/2; A_0 = -1/4 + 1/8 = -1/8. Row of length 1: A_0 = 1/2. Row of length 0: nothing.
    """
    mask = _mask([0, 1, 2, 3], 3)
    values = torch.full((4, 3), 0.5)
    rewards = shape_rewards(torch.ones(4), None, mask, 0.0)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    expected = torch.tensor([[0, 0, 0], [0.5, 0, 0], [-0.125, 0.5, 0], [-9 / 32, -0.125, 0.5]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, torch.where(mask, expected + 0.5, 0.0))


def test_truncated_rows_bootstrap_from_their_last_value() -> None:
    """V = 1/2, r = 1 at the end, gamma = lambda = 1: a row that ended gains 1 - 1/2, a truncated one 1 + 1/2 - 1/2."""
    mask = _mask([1, 1], 2)
    rewards = shape_rewards(torch.ones(2), None, mask, 0.0)
    advantages, _ = gae(rewards, torch.full((2, 2), 0.5), mask, 1.0, 1.0, torch.tensor([False, True]))
    torch.testing.assert_close(advantages[:, 0], torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_gae_equals_the_sum_of_its_definition(gamma: float, lam: float) -> None:
    """An independent reference: A_t is the sum over later steps of (gamma lambda)^(l - t) delta_l."""
    generator = torch.Generator().manual_seed(0)
    lengths = [4, 6, 1, 3]
    mask = _mask(lengths, 6)
    rewards, values = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    advantages, _ = gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(lengths):
        for start in range(length):
            total = 0.0
            for step in range(start, length):
                following = float(values[row, step + 1]) if step + 1 < length else 0.0
                delta = float(rewards[row, step]) + gamma * following - float(values[row, step])
                total += (gamma * lam) ** (step - start) * delta
            assert advantages[row, start].item() == pytest.approx(total, abs=1e-5)
    assert (advantages[~mask] == 0).all()


def test_padding_changes_nothing() -> None:
    mask = _mask([2, 3], 3)
    rewards, values = torch.randn(2, 3), torch.randn(2, 3)
    advantages, _ = gae(rewards, values, mask, 0.9, 0.8)
    wide = [torch.nn.functional.pad(tensor, (0, 4), value=7.0) for tensor in (rewards, values)]
    padded, _ = gae(wide[0], wide[1], torch.nn.functional.pad(mask, (0, 4)), 0.9, 0.8)
    torch.testing.assert_close(padded[:, :3], advantages)
    assert (padded[:, 3:] == 0).all()


def test_the_score_lands_on_the_last_valid_step() -> None:
    mask = _mask([0, 1, 3], 3)
    kl = torch.full((3, 3), 2.0)
    shaped = shape_rewards(torch.tensor([5.0, 6.0, 7.0]), kl, mask, kl_coef=0.5)
    torch.testing.assert_close(shaped, torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [-1.0, -1.0, 6.0]]))
    assert last_step(mask).sum(dim=1).tolist() == [0, 1, 1]


def test_leave_one_out_by_hand() -> None:
    """For (1, 2, 6) the others' means are 4, 3.5 and 1.5."""
    baseline = leave_one_out_baseline(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(baseline, torch.tensor([[4.0, 3.5, 1.5]]))


def test_leave_one_out_needs_another() -> None:
    with pytest.raises(ValueError, match="at least 2 actions a group, got 1"):
        leave_one_out_baseline(torch.ones(3, 1))


def test_gae_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="one shape"):
        gae(torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"gamma=1\.5"):
        gae(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 1.5, 1.0)


def test_group_scaling_by_hand() -> None:
    """(1, 3) has deviation 1 and (10, 20) has 5, so (-1, 1) and (-5, 5) are both (-1, 1); equal rewards stay at 0."""
    rewards = torch.tensor([[1.0, 3.0], [10.0, 20.0], [7.0, 7.0]])
    scaled = scale_by_group_std(rewards - rewards.mean(1, keepdim=True), rewards, eps=0.0)
    assert scaled[:2].tolist() == [[-1.0, 1.0], [-1.0, 1.0]]
    scaled = scale_by_group_std(rewards - rewards.mean(1, keepdim=True), rewards)
    assert scaled[2].tolist() == [0.0, 0.0]
    assert scaled[0, 1].item() == pytest.approx(1 / 1.0001)
    with pytest.raises(ValueError, match="must have one shape"):
        scale_by_group_std(rewards, rewards[0])
