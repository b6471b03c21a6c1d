"""Filtration in the loop: which rows pass, with everything that belongs to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import torch
from lightning.pytorch import Trainer

from tamis.callbacks import Filtration
from tamis.functional import Strategy
from tamis.modules import PolicyModule
from tamis.rollout import Rollout

TRAINER = cast(Trainer, SimpleNamespace(callbacks=[]))  # Filtration asks it whether the update needs all rows


class Module:
    """As much of a policy as Filtration asks for."""

    device, global_rank, num_samples = torch.device("cpu"), 0, 4

    def __init__(self, iteration: int = 0) -> None:
        self.iteration = iteration
        self.logged: dict[str, float] = {}

    def log_dict(self, metrics: dict[str, Any], **_: Any) -> None:
        self.logged |= {name: float(value) for name, value in metrics.items()}


def _rollout(rewards: list[float], group_ids: list[int]) -> Rollout:
    """Every field of row i is made of i, so that a field that stays behind is seen."""
    rows = torch.arange(float(len(rewards)))
    steps = rows.unsqueeze(1).repeat(1, 3)
    return Rollout(
        group_ids=torch.tensor(group_ids),
        actions=steps.long(),
        response_mask=torch.ones_like(steps, dtype=torch.bool),
        rewards=torch.tensor(rewards),
        log_probs=steps + 0.1,
        ref_log_probs=steps + 0.2,
        values=steps + 0.3,
        truncated=rows % 2 == 0,
        environment_loss=rows + 0.4,
        observations={"prompt_ids": steps.long() + 100},
        records=[{"row": int(row)} for row in rows],
    )


def _kept(filtration: Filtration, rollout: Rollout, iteration: int = 0, module: Module | None = None) -> Rollout:
    module = module or Module(iteration)
    return filtration.on_rollout(TRAINER, cast(PolicyModule, module), rollout)


def _rows(rollout: Rollout) -> list[int]:
    return [record["row"] for record in rollout.records]


def test_interleaved_groups_keep_their_own_best_and_worst() -> None:
    """Group 9 has rewards 3, 1, 2 in rows 0, 3, 4; group 2 has 10, 30, 20 in rows 1, 2, 5."""
    rollout = _rollout([3.0, 10.0, 30.0, 1.0, 2.0, 20.0], [9, 2, 2, 9, 9, 2])
    module = Module()
    kept = _kept(Filtration("best_worst", keep=2), rollout, module=module)
    assert _rows(kept) == [2, 1, 0, 3]
    assert kept.group_ids.tolist() == [2, 2, 9, 9]
    assert kept.rewards is not None
    assert kept.rewards.tolist() == [30.0, 10.0, 3.0, 1.0]
    assert module.logged == {
        "filter/rows_in": 6.0,
        "filter/rows_kept": 4.0,
        "filter/rows_dropped": 2.0,
        "filter/reward_all": 11.0,
        "filter/reward_kept": 11.0,
    }


def test_every_field_follows_its_row() -> None:
    kept = _kept(Filtration("best_of_n", keep=1), _rollout([3.0, 10.0, 30.0, 1.0, 2.0, 20.0], [9, 2, 2, 9, 9, 2]))
    rows = torch.tensor([2.0, 0.0])
    assert _rows(kept) == rows.tolist()
    assert torch.equal(kept.actions[:, 0], rows.long())
    for name, offset in (("log_probs", 0.1), ("ref_log_probs", 0.2), ("values", 0.3)):
        torch.testing.assert_close(getattr(kept, name), (rows + offset).unsqueeze(1).repeat(1, 3))
    assert kept.truncated is not None
    assert kept.truncated.tolist() == [True, True]
    torch.testing.assert_close(kept.environment_loss, rows + 0.4)
    assert kept.observations["prompt_ids"][:, 0].tolist() == [102, 100]
    assert kept.response_mask.shape == (2, 3)


def test_the_kept_mean_is_that_of_the_kept_rows() -> None:
    module = Module()
    _kept(Filtration("best_of_n", keep=2), _rollout([1.0, 2.0, 3.0, 6.0], [0, 0, 0, 0]), module=module)
    assert module.logged["filter/reward_all"] == 3.0
    assert module.logged["filter/reward_kept"] == 4.5


def test_sample_mode_draws_with_replacement() -> None:
    """Half of the draws are the best, the other half the worst; so a row comes twice about half of the time."""
    rollout = _rollout([float(row % 4) for row in range(400)], [row // 4 for row in range(400)])
    kept = _kept(Filtration("best_worst", keep=2, mode="sample"), rollout)
    assert kept.group_ids.tolist() == [row // 2 for row in range(200)]
    assert kept.rewards is not None
    assert set(kept.rewards.tolist()) == {0.0, 3.0}
    pairs = kept.rewards.view(100, 2)
    assert 30 < int((pairs[:, 0] == pairs[:, 1]).sum()) < 70  # 50 expected, standard deviation 5


@pytest.mark.parametrize("mode", ["hard", "sample"])
def test_draws_depend_on_seed_and_iteration_only(mode: Any) -> None:
    rollout = _rollout([0.0] * 64, [row // 4 for row in range(64)])

    def rows(iteration: int, seed: int = 0) -> list[int]:
        torch.manual_seed(iteration + 17)  # the global generator has no part in it
        return _rows(_kept(Filtration("random", keep=2, mode=mode, seed=seed), rollout, iteration))

    assert rows(3) == rows(3)
    assert rows(3) != rows(4)
    assert rows(3) != rows(3, seed=1)


def test_without_rewards_there_is_nothing_to_rank() -> None:
    with pytest.raises(ValueError, match="Filtration ranks by reward, and this rollout has none"):
        _kept(Filtration(), _rollout([0.0] * 4, [0] * 4).replace(rewards=None))


def test_the_graph_of_the_rewards_does_not_reach_the_choice() -> None:
    rollout = _rollout([0.0, 1.0, 2.0, 3.0], [0] * 4)
    assert rollout.rewards is not None
    kept = _kept(Filtration("best_worst"), rollout.replace(rewards=rollout.rewards.requires_grad_()))
    assert _rows(kept) == [3, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best_wurst"}, "unknown strategy 'best_wurst'; choose one of none, random, best_of_n"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filtration(**options)


@pytest.mark.parametrize("strategy", [name for name in get_args(Strategy) if name not in ("none", "random")])
def test_there_is_no_rank_among_one(strategy: Strategy) -> None:
    module = Module()
    module.num_samples = 1
    with pytest.raises(ValueError, match=f"{strategy} compares the responses of a prompt, and num_samples=1 gives it"):
        Filtration(strategy, keep=1, high=0.5, low=0.0).setup(TRAINER, module, "fit")
    Filtration(strategy, keep=1, high=0.5, low=0.0).setup(TRAINER, module, "test")
    for alone in (Filtration("none"), Filtration("random", keep=1)):
        alone.setup(TRAINER, module, "fit")


@pytest.mark.parametrize(
    ("strategy", "keep", "message"),
    [("random", 5, "between 1 and the 4 responses of a group, got 5"), ("top", 2, "top needs the threshold `high`")],
)
def test_what_does_not_fit_the_run_stops_it_before_it_starts(strategy: Strategy, keep: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filtration(strategy, keep).setup(TRAINER, Module(), "fit")
    Filtration(strategy, keep).setup(TRAINER, Module(), "test")
    Filtration("none", keep=9).setup(TRAINER, Module(), "fit")
