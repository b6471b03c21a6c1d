"""One gradient, however an optimiser batch is cut: into microbatches, and (in test_ddp_updates.py) over ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tamis.callbacks import Filtration, PPOUpdate, ReinforceUpdate
from tamis.callbacks.minibatches import microbatches
from tamis.callbacks.plan import refuse_idle_critic

from .fixed.tokens import ROWS, UPDATES, Tokens, fit, learn


@pytest.mark.parametrize("update", UPDATES)
def test_accumulation_changes_no_gradient(update: str) -> None:
    """SGD at rate 1, so that weights differ by what gradients differ."""
    whole = learn(update)
    assert not torch.equal(whole["policy.weight"], Tokens().policy.weight)
    for accumulation in (2, 4, 8):
        parts = learn(update, microbatch_size=ROWS // accumulation)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "minibatch_size", "microbatch_size", "steps", "passes"),
    [(1, None, None, 1, [16]), (1, 8, None, 2, [8] * 2), (3, 8, 2, 6, [2] * 24), (2, None, 4, 2, [4] * 8)],
)
def test_steps_and_passes_are_as_many_as_the_sizes_say(
    epochs: int, minibatch_size: int | None, microbatch_size: int | None, steps: int, passes: list[int]
) -> None:
    module = Tokens()
    update = PPOUpdate(epochs=epochs, minibatch_size=minibatch_size, microbatch_size=microbatch_size)
    trainer = fit(module, update)
    assert trainer.global_step == 2 * steps  # two optimisers
    assert module.passes == passes


def test_the_sizes_are_printed_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(Tokens(2), Filtration("best_worst", keep=2), PPOUpdate(epochs=3, minibatch_size=4, microbatch_size=2))
    (text,) = [record.getMessage() for record in caplog.records if "rollout_batch" in record.getMessage()]
    assert [line.split(maxsplit=1) for line in text.splitlines()[1:5]] == [
        ["rollout_batch", "16 rows sampled, 8 kept"],
        ["minibatch", "4"],
        ["microbatch", "2"],
        ["ppo_epochs", "3"],
    ]
    assert text.splitlines()[5].split() == ["optimiser", "steps", "an", "iteration", "6"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"minibatch_size": 6}, "16 kept rows an iteration cannot be cut into minibatches of 6"),
        ({"microbatch_size": 3}, "a minibatch of 16 rows cannot be cut into microbatches of 3"),
    ],
)
@pytest.mark.parametrize("update", [PPOUpdate, ReinforceUpdate])
def test_indivisible_sizes_stop_before_training(update: Any, sizes: dict[str, int], message: str) -> None:
    module = Tokens()
    with pytest.raises(ValueError, match=message):
        fit(module, update(**sizes))
    assert module.iteration == 0
    assert module.passes == []


@pytest.mark.parametrize("update", [PPOUpdate, ReinforceUpdate])
def test_sizes_that_cannot_fit_are_refused_at_once(update: Any) -> None:
    with pytest.raises(ValueError, match="minibatch_size=6 is no multiple of microbatch_size=4"):
        update(minibatch_size=6, microbatch_size=4)
    with pytest.raises(ValueError, match="microbatch_size must be at least 1 or null, got 0"):
        update(microbatch_size=0)


def test_a_batch_that_is_shorter_than_the_others_is_named() -> None:
    with pytest.raises(ValueError, match="a minibatch of 16 rows cannot be cut into microbatches of 5"):
        microbatches(Tokens().drawn, 5)


def test_a_critic_that_nothing_trains_stops_several_processes() -> None:
    with pytest.raises(
        ValueError, match=r"Tokens has one, which 2 processes would wait for; set `--model.critic=none`"
    ):
        refuse_idle_critic(2, Tokens())
    refuse_idle_critic(1, Tokens())
    refuse_idle_critic(2, Tokens(critic=False))
