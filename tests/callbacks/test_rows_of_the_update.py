"""Which of the sampled rows policy, critic and whitening use, beside the default that drops what filtration drops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tamis.callbacks import Filtration, PPOUpdate, ReinforceUpdate, RolloutTable
from tamis.callbacks.update_stats import advantage_stats
from tamis.functional import LossAggregation, SelectionMode
from tamis.rollout import Rollout

from .fixed.tokens import ROWS, Tokens, fit


def _learned(*callbacks: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of policy and critic after one iteration."""
    module = Tokens()
    fit(module, *callbacks)
    return [p.detach() for p in module.policy.parameters()], [p.detach() for p in module.critic.parameters()]


def _ppo(how: LossAggregation, **options: Any) -> PPOUpdate:
    options |= {"entropy_coef": 0.1, "kl_coef": 0.3, "kl_estimator": "k2", "kl_place": "loss"}
    return PPOUpdate(loss_aggregation=how, max_grad_norm=None, **options)


@pytest.mark.parametrize("how", get_args(LossAggregation))
@pytest.mark.parametrize("mode", get_args(SelectionMode))
def test_with_all_rows_for_the_critic_the_policy_learns_from_the_kept_ones(
    how: LossAggregation, mode: SelectionMode
) -> None:
    """And the critic what it learns where nothing is filtered; a row drawn twice counts twice for the policy."""
    dropped, few = _learned(Filtration("best_random", 3, mode), _ppo(how))
    marked, many = _learned(Filtration("best_random", 3, mode), _ppo(how, critic_rows="all"))
    unfiltered, everything = _learned(_ppo(how))
    torch.testing.assert_close(marked, dropped, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(many, everything, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(many[0], few[0], atol=1e-3)
    assert not torch.allclose(marked[0], unfiltered[0], atol=1e-3)


def test_whitening_over_all_rows_leaves_the_critic_the_kept_ones() -> None:
    after, few = _learned(Filtration("best_worst", 2), _ppo("seq_mean"))
    before, same = _learned(Filtration("best_worst", 2), _ppo("seq_mean", whiten_over="all"))
    torch.testing.assert_close(same, few, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[0], after[0], atol=1e-3)


def _marked() -> Rollout:
    """Two groups of two rows; one row of each is kept, the other one's advantage is far off."""
    return Rollout(
        group_ids=torch.tensor([0, 0, 1, 1]),
        actions=torch.zeros(4, 1),
        response_mask=torch.ones(4, 1, dtype=torch.bool),
        rewards=torch.tensor([1.0, -9.0, 3.0, 13.0]),
        log_probs=torch.zeros(4, 1),
        values=torch.zeros(4, 1),
        kept=torch.tensor([1.0, 0.0, 1.0, 0.0]),
    )


@pytest.mark.parametrize(
    ("rows", "advantages"),
    # Kept: 1 and 3, mean 2, deviation 1. All: 1, -9, 3, 13, mean 2, variance (1 + 121 + 1 + 121) / 4 = 61.
    [("kept", [-1.0, 1.0]), ("all", [-(61**-0.5), 61**-0.5])],
)
def test_whitening_by_hand(rows: Any, advantages: list[float]) -> None:
    whitened = PPOUpdate(kl_coef=0, whiten_over=rows, critic_rows="all").estimate_advantages(_marked()).advantages
    assert whitened is not None
    torch.testing.assert_close(whitened[[0, 2], 0], torch.tensor(advantages))


def test_statistics_are_those_of_the_rows_that_are_learned_from() -> None:
    update = PPOUpdate(kl_coef=0, critic_rows="all", whiten_advantages=False)
    rollout = update.estimate_advantages(_marked()).replace(values=torch.tensor([[1.0], [-9.0], [0.0], [13.0]]))
    stats = {name: value.item() for name, value in advantage_stats(rollout, None).items()}
    assert stats["update/advantage_mean"] == pytest.approx(2.0)
    assert stats["update/advantage_std"] == pytest.approx(1.0)
    assert stats["update/advantage_abs_max"] == pytest.approx(3.0)
    # All four rows are the critic's: residuals 0, 0, 3, 0 have the variance 27 / 16, returns have 61.
    assert stats["update/explained_variance"] == pytest.approx(1 - 27 / 16 / 61)
    kept = {name: value.item() for name, value in advantage_stats(rollout, rollout.kept).items()}
    assert kept["update/explained_variance"] == pytest.approx(1 - 2.25 / 1)  # residuals 0, 3; returns 1, 3


def test_the_table_tells_what_was_kept(tmp_path: Path) -> None:
    module = Tokens()
    records = [{"task_id": str(row), "prompt": "", "completion": ""} for row in range(ROWS)]
    module.drawn = module.drawn.replace(records=records)
    table = RolloutTable(path=str(tmp_path / "rows.jsonl"))
    fit(module, table, Filtration("best_of_n", 1), PPOUpdate(critic_rows="all"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rewards = module.drawn.rewards
    assert rewards is not None
    best = rewards.view(-1, 4).argmax(1) + 4 * torch.arange(ROWS // 4)
    assert [int(row["task_id"]) for row in rows if row["kept"]] == best.tolist()
    assert [row["kl"] is not None for row in rows] == [row["kept"] for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic_rows": "some"}, "must be kept or all"),
        ({"whiten_over": "all", "whiten_advantages": False}, "would do nothing"),
        ({"critic_rows": "all", "advantage_estimator": "leave_one_out"}, "need a critic"),
        ({"whiten_over": "all", "advantage_estimator": "leave_one_out"}, "need a critic"),
    ],
)
def test_choices_without_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOUpdate(**options)


@pytest.mark.parametrize("update", [PPOUpdate(advantage_estimator="leave_one_out"), ReinforceUpdate()])
def test_a_row_alone_has_no_others_to_be_compared_with(update: Any) -> None:
    module = Tokens(critic=False)
    with pytest.raises(ValueError, match="of num_samples=4 responses a prompt 1 is learned from; keep at least 2"):
        fit(module, Filtration("best_of_n", 1), update)
    assert not module.passes  # nothing was scored


def test_indivisible_sizes_count_all_rows_where_all_are_used() -> None:
    with pytest.raises(ValueError, match="16 kept rows an iteration cannot be cut into minibatches of 5"):
        fit(Tokens(), Filtration("best_of_n", 1), PPOUpdate(minibatch_size=5, critic_rows="all"))
