"""What must hold of any numbers: invariances of the losses and advantages, and filtration against slow loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from tamis.functional import (
    KLEstimator,
    LossAggregation,
    SelectionMode,
    Strategy,
    aggregate_loss,
    kl_divergence,
    leave_one_out_baseline,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_loss,
    select,
    selection_weights,
)

AGGREGATIONS: tuple[LossAggregation, ...] = get_args(LossAggregation)
B, T = 5, 6
Loss = Callable[[Tensor, Tensor, Tensor, LossAggregation], Tensor]

LOSSES: dict[str, Loss] = {
    "ppo": lambda x, other, mask, how: ppo_policy_loss(0.3 * x, 0.1 * other, other, mask, 0.2, how)[0],
    "value": lambda x, other, mask, how: ppo_value_loss(x, other, other.flip(0), mask, 0.2, how),
    "reinforce": lambda x, other, mask, how: reinforce_loss(x, other, mask, how),
}
ROWWISE = {name: loss for name, loss in LOSSES.items() if name != "value"}  # that one flips its rows


def _batch(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Something with gradients, something constant, and a mask of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    mask = torch.arange(T) < lengths.unsqueeze(1)
    return torch.randn(B, T, generator=generator), torch.randn(B, T, generator=generator), mask


def _gradient(loss: Loss, x: Tensor, other: Tensor, mask: Tensor, how: LossAggregation) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, other, mask, how)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_padding_columns_change_no_gradient(name: str, how: LossAggregation, seed: int) -> None:
    x, other, mask = _batch(seed)
    value, gradient = _gradient(LOSSES[name], x, other, mask, how)
    wide = pad(x, (0, 3), value=9.0), pad(other, (0, 3), value=-5.0), pad(mask, (0, 3))
    padded_value, padded = _gradient(LOSSES[name], *wide, how)
    torch.testing.assert_close(padded_value, value)
    torch.testing.assert_close(padded[:, :T], gradient)
    assert (padded[:, T:] == 0).all()
    assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_no_gradient(name: str, how: LossAggregation, seed: int) -> None:
    x, other, mask = _batch(seed)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    value, gradient = _gradient(ROWWISE[name], x, other, mask, how)
    moved_value, moved = _gradient(ROWWISE[name], x[order], other[order], mask[order], how)
    torch.testing.assert_close(moved_value, value)
    torch.testing.assert_close(moved, gradient[order])


@pytest.mark.parametrize("how", ["seq_mean", "seq_sum"])
def test_shards_of_equal_size_average_to_the_whole(how: LossAggregation) -> None:
    """What distributed training does: each rank's gradient of its rows, averaged over ranks."""
    x, other, mask = (torch.cat([first, second]) for first, second in zip(_batch(0), _batch(1), strict=True))
    whole = _gradient(LOSSES["reinforce"], x, other, mask, how)[1]
    parts = [
        _gradient(LOSSES["reinforce"], x[rows], other[rows], mask[rows], how)[1] for rows in (slice(B), slice(B, None))
    ]
    torch.testing.assert_close(torch.cat(parts) / 2, whole)


def test_token_mean_is_the_mean_of_all_tokens() -> None:
    """Of those here; parts of a batch are given the whole's number of tokens instead."""
    x, _, mask = _batch(0)
    assert aggregate_loss(x, mask, "token_mean").item() == pytest.approx(x[mask].mean().item())


@pytest.mark.parametrize("n", [2, 3, 7])
def test_leave_one_out_advantages_cancel_in_a_group(n: int) -> None:
    rewards = torch.randn(20, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    advantages = rewards - leave_one_out_baseline(rewards)
    torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(20, dtype=torch.float64))
    # The same as the distance to the group's mean, stretched by n / (n - 1).
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    torch.testing.assert_close(advantages, centred * n / (n - 1))


@pytest.mark.parametrize("c", [0.01, 3.0, 100.0])
@pytest.mark.parametrize("how", AGGREGATIONS)
def test_ppo_is_homogeneous_in_positive_advantages(c: float, how: LossAggregation) -> None:
    """Clipping depends on the advantage's sign only, so scaling them by c > 0 scales loss and gradient by c."""
    x, other, mask = _batch(4)

    def scaled(factor: float) -> tuple[Tensor, Tensor]:
        return _gradient(
            lambda x, _, m, how: ppo_policy_loss(x, 0.5 * x.detach(), factor * other, m, 0.2, how)[0],
            x,
            other,
            mask,
            how,
        )

    for ours, plain in zip(scaled(c), scaled(1.0), strict=True):
        torch.testing.assert_close(ours, c * plain)


def test_padding_may_hold_anything() -> None:
    """A ratio that overflows off the mask must not reach the gradient, where 0 times infinity is NaN."""
    log_probs = torch.tensor([[-1.0, 1000.0]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    loss, stats = ppo_policy_loss(log_probs, torch.zeros(1, 2), torch.ones(1, 2), mask)
    gradient = torch.autograd.grad(loss, log_probs)[0]
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.0]]).exp() * torch.tensor([[-1.0, 0.0]]))
    assert stats.ratio_max.item() == pytest.approx(float(torch.tensor(-1.0).exp()))


def test_ppo_is_never_below_the_unclipped_loss() -> None:
    """The surrogate is a lower bound of the objective, so its negative is an upper bound of the loss."""
    for seed in range(5):
        x, other, mask = _batch(seed)
        clipped = ppo_policy_loss(x, torch.zeros_like(x), other, mask, 0.2)[0]
        assert clipped >= ppo_policy_loss(x, torch.zeros_like(x), other, mask, 1e9)[0] - 1e-6


def test_whitening_forgets_scale_and_shift() -> None:
    x, _, mask = _batch(2)
    torch.testing.assert_close(masked_whiten(3 * x + 7, mask), masked_whiten(x, mask), atol=1e-5, rtol=1e-5)
    whitened = masked_whiten(x, mask)[mask]
    assert whitened.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert whitened.var(correction=0).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("estimator", get_args(KLEstimator))
def test_kl_estimators_agree_for_small_steps(estimator: KLEstimator) -> None:
    """By hand for log pi - log pi_ref = 0.1: k1 0.1, k2 0.005, k3 e^-0.1 - 1 + 0.1 = 0.0048374."""
    expected = {"k1": 0.1, "k2": 0.005, "k3": 0.0048374}[estimator]
    assert kl_divergence(torch.tensor(-1.0), torch.tensor(-1.1), estimator).item() == pytest.approx(expected, abs=1e-6)


def _slow_best_worst(rewards: list[float], keep: int) -> list[int]:
    left = list(range(len(rewards)))
    kept: list[int] = []
    while len(kept) < keep:
        choose = max if len(kept) % 2 == 0 else min
        kept.append(choose(left, key=lambda column: rewards[column]))
        left.remove(kept[-1])
    return kept


def _slow_best_of_n(rewards: list[float], keep: int) -> list[int]:
    return sorted(range(len(rewards)), key=lambda column: -rewards[column])[:keep]


@pytest.mark.parametrize(("strategy", "reference"), [("best_worst", _slow_best_worst), ("best_of_n", _slow_best_of_n)])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_hard_selection_equals_slow_loops(
    strategy: Strategy, reference: Callable[[list[float], int], list[int]], n: int
) -> None:
    rewards = torch.randn(30, n, generator=torch.Generator().manual_seed(n))
    for keep in range(1, n + 1):
        columns = select(rewards, strategy, keep, generator=torch.Generator().manual_seed(0))
        assert columns.tolist() == [reference(row, keep) for row in rewards.tolist()]


@pytest.mark.parametrize("mode", get_args(SelectionMode))
def test_selection_does_not_look_at_other_groups(mode: SelectionMode) -> None:
    """Best and worst of each group, whatever its neighbours are: rewards of very different sizes side by side."""
    rewards = torch.tensor([[1.0, 2.0, 3.0], [1e6, 3e6, 2e6], [-3e6, -1e6, -2e6]])
    columns = select(rewards, "best_worst", 2, mode, torch.Generator().manual_seed(0))
    extremes = [{2, 0}, {1, 0}, {1, 0}]
    assert all(set(row) <= extreme for row, extreme in zip(columns.tolist(), extremes, strict=True))


def test_thresholds_are_strict() -> None:
    """A reward that equals the threshold is neither above nor below it."""
    rewards = torch.tensor([[0.5, 0.5, 0.6, -0.5, -0.6]])
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        assert select(rewards, "top", 1, high=0.5, generator=generator).tolist() == [[2]]
        assert set(select(rewards, "top_bottom", 2, high=0.5, low=-0.5, generator=generator)[0].tolist()) == {2, 4}


@pytest.mark.parametrize("strategy", ["top", "top_bottom", "power"])
def test_a_group_in_which_nothing_qualifies_is_weighed_uniformly(strategy: Strategy) -> None:
    weights = selection_weights(torch.zeros(2, 4), strategy, high=1.0, low=-1.0)
    assert weights.tolist() == [[0.25] * 4] * 2
