"""``strategy: auto``: the filter takes the strategy whose R^2 on the probe set has the highest lower bound."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tamis.callbacks import Filtration, RewardReliability
from tamis.callbacks.probe import Probed
from tamis.callbacks.reliability_report import Candidate, measure
from tamis.functional import Strategy
from tamis.modules import PolicyModule
from tamis.rollout import Rollout


class Module:
    """As much of a policy as Filtration asks for."""

    device, global_rank, num_samples = torch.device("cpu"), 0, 5

    def __init__(self, iteration: int = 0) -> None:
        self.iteration = iteration
        self.logged: dict[str, float] = {}

    def log_dict(self, metrics: dict[str, Any], **_: Any) -> None:
        self.logged |= {name: float(value) for name, value in metrics.items()}


def _trainer(*callbacks: Any) -> Trainer:
    return cast(Trainer, SimpleNamespace(callbacks=list(callbacks), world_size=1))


def _pair(**options: Any) -> tuple[Filtration, RewardReliability]:
    return Filtration("auto", **options), RewardReliability(probe="probe.jsonl", bootstrap=200)


def _rollout() -> Rollout:
    """Two groups of five, in which rank and row agree."""
    return Rollout(
        group_ids=torch.arange(2).repeat_interleave(5),
        actions=torch.zeros(10, 1, dtype=torch.int64),
        response_mask=torch.ones(10, 1, dtype=torch.bool),
        rewards=torch.arange(10.0),
        records=[{"row": row % 5} for row in range(10)],
    )


def _probed(iteration: int, edges: list[float], chances: list[float], tasks: int = 400) -> Probed:
    """Rewards uniform in 0..1 that pass with a chance that changes at the edges."""
    generator = torch.Generator().manual_seed(iteration)
    rewards = torch.rand(tasks, 5, generator=generator, dtype=torch.float64)
    passed = torch.rand(tasks, 5, generator=generator) < torch.tensor(chances)[_level(rewards, edges)]
    return Probed(iteration, [str(task) for task in range(tasks)], rewards, passed.double(), 1.0, 1.0)


def _level(rewards: Tensor, edges: list[float]) -> Tensor:
    return torch.bucketize(rewards, torch.tensor(edges, dtype=rewards.dtype))


def _right_at_both_ends(iteration: int) -> Probed:
    return _probed(iteration, [0.3, 0.4, 0.5, 0.6, 0.7], [0.0, 0.8, 0.2, 0.8, 0.2, 1.0])


def _right_at_the_top(iteration: int) -> Probed:
    """Below 0.6 the reward knows nothing, and less than that; above it the pass rate climbs with it."""
    return _probed(iteration, [0.15, 0.3, 0.6, 0.7, 0.8, 0.9], [0.9, 0.1, 0.5, 0.2, 0.45, 0.7, 0.95])


def _step(filtration: Filtration, reliability: RewardReliability, iteration: int = 0) -> tuple[list[int], int]:
    """Rows that pass in each group (the same in both), and the logged strategy."""
    module = Module(iteration)
    kept = filtration.on_rollout(_trainer(reliability, filtration), cast(PolicyModule, module), _rollout())
    return [record["row"] for record in kept.records[: len(kept) // 2]], int(module.logged["filter/strategy"])


def test_the_first_candidate_is_taken_until_something_is_measured() -> None:
    filtration, reliability = _pair(candidates=["best_of_n", "best_worst"])
    assert _step(filtration, reliability) == ([4, 3], get_args(Strategy).index("best_of_n"))
    assert Filtration("auto").chosen == "best_random"
    assert Filtration("best_worst").chosen == "best_worst"


def test_it_switches_to_what_is_reliable_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    filtration, reliability = _pair()
    reliability.probed = _right_at_both_ends(10)
    with caplog.at_level(logging.INFO):
        rows, logged = _step(filtration, reliability, iteration=10)
    assert rows == [4, 0]
    assert logged == get_args(Strategy).index("best_worst") == 4
    fits = measure(
        reliability.probed.rewards,
        reliability.probed.passed,
        [Candidate(name, name, 2) for name in filtration.candidates],
        reliability.settings,
    )
    bounds = ", ".join(f"{name} {fit.low:.3f}" for name, fit in fits.items())
    assert (
        f"best_random -> best_worst from iteration 10 on; lower bounds of R^2 on the probe set: {bounds}" in caplog.text
    )
    assert fits["best_worst"].low == max(fit.low for fit in fits.values())
    assert {int(fit.bin_counts.sum()) for fit in fits.values()} == {800}  # bounds on equal numbers

    reliability.probed = _right_at_the_top(20)
    assert _step(filtration, reliability, iteration=20) == ([4, 3], 2)
    assert filtration.chosen == "best_of_n"


def test_between_measurements_the_choice_stays() -> None:
    """The same measurement is not looked at again: what it would say now does not matter."""
    filtration, reliability = _pair()
    reliability.probed = _right_at_both_ends(10)
    assert _step(filtration, reliability, iteration=10)[1] == 4
    filtration.chosen = "random"
    assert _step(filtration, reliability, iteration=11)[1] == 1
    reliability.probed = _right_at_both_ends(20)
    assert _step(filtration, reliability, iteration=20)[1] == 4


@pytest.mark.parametrize("chances", [[0.5, 0.5], [1.0, 0.0]])
def test_without_a_rising_line_the_choice_stays(chances: list[float]) -> None:
    """All pass alike, or more reward means fewer passes."""
    filtration, reliability = _pair(candidates=["best_worst", "best_random"])
    filtration.chosen = "best_random"
    probed = _probed(10, [0.5], chances)
    if chances[0] == chances[1]:
        probed = Probed(10, probed.tasks, probed.rewards, torch.ones_like(probed.passed), 1.0, 1.0)
    reliability.probed = probed
    assert _step(filtration, reliability, iteration=10)[1] == get_args(Strategy).index("best_random")


def test_only_candidates_are_chosen_and_mode_and_keep_count() -> None:
    filtration, reliability = _pair(candidates=["random", "best_random"], keep=3, mode="sample")
    reliability.probed = _right_at_both_ends(0)
    rows, logged = _step(filtration, reliability)
    assert logged == get_args(Strategy).index("best_random")
    assert len(rows) == 3


def test_a_checkpoint_carries_the_choice() -> None:
    filtration, reliability = _pair()
    reliability.probed = _right_at_both_ends(10)
    _step(filtration, reliability, iteration=10)
    state = filtration.state_dict()
    resumed = Filtration("auto")
    resumed.load_state_dict(state)
    fresh = RewardReliability(probe="probe.jsonl")  # nothing measured yet after the checkpoint
    assert _step(resumed, fresh, iteration=15)[1] == 4
    narrow, named = Filtration("auto", candidates=["random"]), Filtration("random")
    for other in (narrow, named):
        other.load_state_dict(state)
        assert other.chosen == "random"
    assert named.state_dict() == {}


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (["none"], r"none keeps all rows, and auto the same number in every iteration: take random\), got \['none'\]"),
        ([], r"one or more different strategies.*got \[\]"),
        (["random", "random"], "one or more different strategies"),
        (["best_wurst"], "each of random, best_of_n, best_random"),
    ],
)
def test_candidates_that_cannot_be(candidates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filtration("auto", candidates=candidates)


def test_auto_needs_a_probe_set() -> None:
    filtration = Filtration("auto")
    for callbacks in ([], [RewardReliability()], [RewardReliability(probe=5), RewardReliability(probe=6)]):
        with pytest.raises(ValueError, match="add `--trainer.callbacks.=RewardReliability --trainer.callbacks.probe="):
            filtration.setup(_trainer(*callbacks), Module(), "fit")
    filtration.setup(_trainer(), Module(), "test")
    filtration.setup(_trainer(RewardReliability(probe=5)), Module(), "fit")


@pytest.mark.parametrize(
    ("options", "probe_samples", "message"),
    [
        ({"keep": 6}, None, "between 1 and the 5 responses of a group, got 6"),
        ({"keep": 4}, 3, "between 1 and the 3 responses of a group, got 4"),
        ({"candidates": ["random", "top"]}, None, "top needs the threshold `high`"),
    ],
)
def test_what_does_not_fit_the_run_stops_it_before_it_starts(
    options: dict[str, Any], probe_samples: int | None, message: str
) -> None:
    reliability = RewardReliability(probe=5, probe_samples=probe_samples)
    with pytest.raises(ValueError, match=message):
        Filtration("auto", **options).setup(_trainer(reliability), Module(), "fit")
