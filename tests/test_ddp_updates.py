"""What two processes learn and log of their halves of a batch is what one does of all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tamis.callbacks import Filtration, PPOUpdate, ReinforceUpdate, RolloutMetrics
from tamis.rollout import Rollout

from .callbacks.fixed.tokens import ROWS, UPDATES, Tokens, fit, learn
from .ranks import Ranks


def learn_each(updates: list[str]) -> list[dict[str, Tensor]]:
    """On a rank: what each update learns in an iteration of several microbatches."""
    return [learn(update, processes=2, microbatch_size=ROWS // 8) for update in updates]


def test_two_ranks_learn_what_one_does(ranks: Ranks) -> None:
    """The short rows lie on the first rank."""
    for update, *both in zip(UPDATES, *ranks(learn_each, list(UPDATES)), strict=True):
        one = learn(update)
        for name in one:
            if name.startswith(("policy.", "critic.", "update/grad_norm")):
                torch.testing.assert_close(both[0][name], one[name], atol=1e-6, rtol=1e-5)
                assert torch.equal(both[0][name], both[1][name])
            else:
                mean = (both[0][name] + both[1][name]) / 2  # as the loggers reduce them
                torch.testing.assert_close(mean, one[name], atol=1e-6, rtol=1e-5)


#: Callbacks of runs of several steps an iteration, whose sizes are those of one process over the number of processes.
STEPS: dict[str, Any] = {
    "ppo": lambda n: [PPOUpdate(epochs=3, minibatch_size=ROWS // 4 // n, kl_coef=0.1)],
    "warm_up": lambda n: [PPOUpdate(critic_warmup_iterations=2, epochs=2, minibatch_size=ROWS // 2 // n)],
    # Between the two ranks' KL: alone, one would raise the coefficient and the other lower it.
    "target": lambda n: [PPOUpdate(kl_target=0.64, kl_coef=0.5, microbatch_size=ROWS // 4 // n)],
    "filtered": lambda n: [Filtration("best_random", keep=2), PPOUpdate(epochs=2, minibatch_size=ROWS // 4 // n)],
    "sampled": lambda n: [Filtration("power", keep=2, mode="sample"), PPOUpdate(minibatch_size=ROWS // 4 // n)],
    "marked": lambda n: [Filtration("best_worst"), PPOUpdate(critic_rows="all", minibatch_size=ROWS // 2 // n)],
    "random": lambda _: [Filtration("random", keep=3), PPOUpdate()],
}


def several_iterations(name: str, processes: int) -> dict[str, Tensor]:
    """The weights after three iterations on the same prompts, with other draws of the filter in each."""
    module = Tokens(max_iterations=3)
    fit(module, *STEPS[name](processes), processes=processes)
    return {key: value for key, value in module.state_dict().items() if not key.startswith("start")}


def each_of_steps() -> dict[str, dict[str, Tensor]]:
    """On a rank: every run."""
    return {name: several_iterations(name, 2) for name in STEPS}


def test_filters_and_minibatches_of_two_ranks_are_those_of_one_process(ranks: Ranks) -> None:
    both = ranks(each_of_steps)
    for name in STEPS:
        one = several_iterations(name, 1)
        for key, weight in one.items():
            assert torch.equal(both[0][name][key], both[1][name][key]), (name, key)
            torch.testing.assert_close(both[0][name][key], weight, atol=1e-5, rtol=1e-4, msg=f"{name}: {key}")


class OneSided(Tokens):
    """Rewards that a filter could stumble over: on the first rank all alike or all above, on the other none."""

    def __init__(self, rewards: list[float]) -> None:
        super().__init__(critic=False)
        self.drawn: Rollout = self.drawn.replace(rewards=torch.tensor(rewards).repeat(2).repeat_interleave(4))


SIDES: dict[str, tuple[list[float], dict[str, Any]]] = {
    "above": ([2.0, -2.0], {"strategy": "top", "high": 0.0}),
    "top_random": ([2.0, -2.0], {"strategy": "top_random", "high": 0.0, "mode": "sample"}),
    "neither": ([0.5, 3.0], {"strategy": "top_bottom", "high": 1.0, "low": 0.0}),
    "ties": ([1.0, 1.0], {"strategy": "best_worst"}),
    "zero": ([0.0, 1e30], {"strategy": "power", "power": 2.0}),
}


def filtered(name: str, processes: int) -> dict[str, Tensor]:
    """Weights after an iteration, of sizes that a rank which kept another number of rows could not have."""
    rewards, options = SIDES[name]
    module = OneSided(rewards)
    update = ReinforceUpdate("group_mean", minibatch_size=4 // processes, entropy_coef=0.1)
    fit(module, Filtration(**options, keep=2), update, processes=processes)
    return dict(module.policy.state_dict())


def each_side() -> dict[str, dict[str, Tensor]]:
    """On a rank: every filter."""
    return {name: filtered(name, 2) for name in SIDES}


def test_filters_keep_ranks_in_step_whatever_the_rewards_are(ranks: Ranks) -> None:
    both = ranks(each_side)
    for name in SIDES:
        for key, weight in filtered(name, 1).items():
            assert torch.equal(both[0][name][key], both[1][name][key]), (name, key)
            torch.testing.assert_close(both[0][name][key], weight, atol=1e-5, rtol=1e-4, msg=f"{name}: {key}")


def logged() -> dict[str, Tensor]:
    """On a rank: what it logs of an iteration."""
    return dict(fit(Tokens(), RolloutMetrics(), PPOUpdate(kl_coef=0.3), processes=2).callback_metrics)


def test_numbers_are_of_all_ranks_together(ranks: Ranks) -> None:
    """The short rows lie on the first rank: a mean of the ranks' means or deviations would show."""
    one = fit(Tokens(), RolloutMetrics(), PPOUpdate(kl_coef=0.3)).callback_metrics
    names = {name for name in one if name.startswith("rollout/") or name.endswith("_max") or "/lr_" in name}
    assert len(names) == 15
    for mine in ranks(logged):
        assert mine.keys() == one.keys()
        for name in names:
            assert float(mine[name]) == pytest.approx(float(one[name]), rel=1e-5, abs=1e-6), name
    drawn = Tokens().drawn
    assert drawn.rewards is not None
    assert float(one["rollout/reward_std"]) == pytest.approx(float(drawn.rewards.std(correction=0)), rel=1e-5)
    assert float(one["rollout/length_mean"]) == pytest.approx(63 / 16)
