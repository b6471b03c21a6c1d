"""A row's weight is how often it counts: two is as good as twice there, nothing as good as gone."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tamis.functional import (
    LossAggregation,
    aggregate_loss,
    masked_mean,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
    weigh,
)

WEIGHTS = torch.tensor([2.0, 0.0, 1.0, 3.0])
TIMES = torch.tensor([0, 0, 2, 3, 3, 3])
MASK = torch.arange(5) < torch.tensor([3, 5, 1, 4]).unsqueeze(1)


def _numbers(seed: int) -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("how", get_args(LossAggregation))
def test_losses(how: LossAggregation) -> None:
    old, new, advantages, returns = (_numbers(seed) for seed in range(4))
    weighed: dict[str, Any] = {"aggregation": how, "weights": WEIGHTS}
    loss, stats = ppo_policy_loss(new, old, advantages, MASK, **weighed)
    tensors = (new[TIMES], old[TIMES], advantages[TIMES], MASK[TIMES])
    repeated, repeated_stats = ppo_policy_loss(*tensors, aggregation=how)
    torch.testing.assert_close(loss, repeated)
    torch.testing.assert_close(stats, repeated_stats)
    value = ppo_value_loss(new, old, returns, MASK, **weighed)
    torch.testing.assert_close(
        value, ppo_value_loss(new[TIMES], old[TIMES], returns[TIMES], MASK[TIMES], aggregation=how)
    )


def test_mean_by_hand() -> None:
    values, mask = torch.tensor([[1.0, 5.0], [4.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    # (2 * (1 + 5) + 1 * 4) / (2 + 2 + 1)
    assert masked_mean(values, mask, weights=torch.tensor([2.0, 1.0])).item() == pytest.approx(16 / 5)
    assert weigh(mask, torch.tensor([2.0, 1.0])).tolist() == [[2.0, 2.0], [1.0, 0.0]]
    # Rows' means are 3 and 4: (2 * 3 + 4) / 3
    assert aggregate_loss(values, mask, weights=torch.tensor([2.0, 1.0])).item() == pytest.approx(10 / 3)


def test_whitening() -> None:
    values = _numbers(0)
    whitened = masked_whiten(values, MASK, weights=WEIGHTS)
    torch.testing.assert_close(whitened[TIMES], masked_whiten(values[TIMES], MASK[TIMES]))


def test_nothing_kept_is_nothing_lost() -> None:
    none = torch.zeros(4)
    assert aggregate_loss(_numbers(0), MASK, weights=none).item() == 0
    assert masked_mean(_numbers(0), MASK, weights=none).item() == 0
    assert masked_whiten(_numbers(0), MASK, weights=none).isfinite().all()
