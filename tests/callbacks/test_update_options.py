"""The update's options one by one: cut-off responses, the KL's place and coefficient, the critic's warm-up."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import PolicyCallback, PPOUpdate, ReinforceUpdate
from tamis.callbacks.shaping import response_kl
from tamis.functional import adapt_kl_coef, aggregate_loss, kl_divergence
from tamis.modules import CodePolicy, Reward
from tamis.rollout import Rollout

from .fixed.tokens import Stats, Tokens, fit


def _two_rows() -> Rollout:
    """Lengths 2 and 3, both scored 1 and valued 1/2 everywhere; the second was cut off."""
    return Rollout(
        group_ids=torch.zeros(2, dtype=torch.int64),
        actions=torch.zeros(2, 3, dtype=torch.int64),
        response_mask=torch.tensor([[True, True, False], [True, True, True]]),
        rewards=torch.ones(2),
        log_probs=torch.zeros(2, 3),
        values=torch.full((2, 3), 0.5),
        truncated=torch.tensor([False, True]),
    )


#: gamma = 1/2 and lambda = 1/2, so gamma * lambda = 1/4. A row that ended with 1: its last delta is 1 - 1/2 = 1/2,
#: those before are 1/4 - 1/2 = -1/4, so backwards 1/2, -1/4 + 1/8 = -1/8, -1/4 - 1/32 = -9/32.
#: Penalty 2: the last delta is 1 - 2 - 1/2 = -3/2; then -1/4 - 3/8 = -5/8, -1/4 - 5/32 = -13/32.
#: Bootstrap: the last delta is 1 + 1/4 - 1/2 = 3/4; then -1/4 + 3/16 = -1/16, -1/4 - 1/64 = -17/64.
CUT_OFF_ROW: dict[str, list[float]] = {
    "keep": [-9 / 32, -1 / 8, 1 / 2],
    "penalty": [-13 / 32, -5 / 8, -3 / 2],
    "bootstrap": [-17 / 64, -1 / 16, 3 / 4],
    "mask": [0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("truncated", CUT_OFF_ROW)
def test_gae_of_a_cut_off_row_by_hand(truncated: Any) -> None:
    update = PPOUpdate(
        truncated=truncated, truncation_penalty=2.0, gamma=0.5, lam=0.5, kl_coef=0.0, whiten_advantages=False
    )
    estimated = update.estimate_advantages(_two_rows())
    expected = torch.tensor([[-1 / 8, 1 / 2, 0.0], CUT_OFF_ROW[truncated]])
    torch.testing.assert_close(estimated.advantages, expected)
    torch.testing.assert_close(estimated.returns, torch.where(estimated.response_mask, expected + 0.5, 0.0))
    assert estimated.response_mask[1].all() == (truncated != "mask")


@pytest.mark.parametrize("truncated", ["keep", "penalty", "mask"])
def test_comparing_rows_of_which_one_is_cut_off_by_hand(truncated: Any) -> None:
    """Scores 1 and 1, or 1 and 1 - 2 = -1; a row left out of the loss is still what the other is compared with."""
    rollout = _two_rows().replace(rewards=torch.tensor([1.0, 4.0]))
    scores = {"keep": (1.0, 4.0), "penalty": (1.0, 2.0), "mask": (1.0, 4.0)}[truncated]
    rloo = ReinforceUpdate(truncated=truncated, truncation_penalty=2.0).estimate_advantages(rollout)
    assert rloo.tolist() == [scores[0] - scores[1], scores[1] - scores[0]]
    ppo = PPOUpdate(
        advantage_estimator="leave_one_out",
        truncated=truncated,
        truncation_penalty=2.0,
        kl_coef=0.0,
        whiten_advantages=False,
    )
    advantages = cast(Tensor, ppo.estimate_advantages(rollout).advantages)
    second = 0.0 if truncated == "mask" else float(rloo[1])
    assert advantages.tolist() == [[float(rloo[0])] * 2 + [0.0], [second] * 3]


def _weights(module: Tokens) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


class Short(Tokens):
    """As if the rows that were cut off had never been sampled."""

    def complete(self, rollout: Rollout) -> Rollout:
        assert rollout.truncated is not None
        completed: Rollout = super().complete(rollout.select((~rollout.truncated).nonzero().flatten()))
        return completed


@pytest.mark.parametrize("how", ["token_mean", "seq_mean", "seq_sum"])
@pytest.mark.parametrize("whiten", [True, False])
def test_masked_rows_are_as_good_as_gone(how: Any, whiten: bool) -> None:
    """In losses, in what they are divided by, and in whitening."""
    weights = []
    for module, truncated in ((Tokens(), "mask"), (Short(), "keep")):
        fit(module, PPOUpdate(truncated=truncated, loss_aggregation=how, whiten_advantages=whiten, max_grad_norm=None))  # type: ignore[arg-type]
        weights.append(_weights(module))
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("how", ["token_mean", "seq_mean", "seq_sum"])
def test_masked_rows_teach_reinforce_nothing(how: Any) -> None:
    """With no baseline, in which they would count."""
    weights = []
    for module, truncated in ((Tokens(critic=False), "mask"), (Short(critic=False), "keep")):
        fit(module, ReinforceUpdate("none", truncated=truncated, loss_aggregation=how))  # type: ignore[arg-type]
        weights.append(_weights(module))
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("update", [PPOUpdate(truncated="mask", kl_coef=0.0), ReinforceUpdate(truncated="penalty")])
def test_a_policy_that_tells_no_truncation_is_named(update: Any) -> None:
    with pytest.raises(ValueError, match="needs to know which responses were cut off"):
        update.estimate_advantages(_two_rows().replace(truncated=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncated": "drop"}, "truncated must be one of keep, penalty, bootstrap, mask, got 'drop'"),
        ({"truncation_penalty": -1.0}, "must not be negative, got -1.0"),
        ({"truncated": "bootstrap", "advantage_estimator": "leave_one_out"}, "need a critic"),
        ({"critic_warmup_iterations": 1, "advantage_estimator": "leave_one_out"}, "need a critic"),
        ({"critic_warmup_iterations": -1}, "must not be negative, got -1"),
        ({"kl_place": "loss"}, "expected gradient of k1 is 0"),
        ({"kl_place": "nowhere"}, "kl_place reward or loss, got k1, nowhere"),
        ({"kl_coef": -0.1}, "kl_coef must not be negative, got -0.1"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "start from a kl_coef above 0"),
        ({"kl_target": -1.0}, "kl_target must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOUpdate(**options)


def test_reinforce_knows_no_bootstrap() -> None:
    with pytest.raises(ValueError, match="one of keep, penalty, mask, got 'bootstrap'"):
        ReinforceUpdate(truncated="bootstrap")  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_penalty_in_the_loss_is_that_of_the_reference_and_not_in_the_reward(estimator: Any) -> None:
    module = Tokens()
    rollout = module.complete(module.drawn)
    losses = {}
    for coef in (0.0, 0.7):
        update = PPOUpdate(kl_coef=coef, kl_estimator=estimator, kl_place="loss")
        losses[coef], stats = update.loss(cast(Any, module), update.estimate_advantages(rollout))
    log_probs = module.evaluate_actions(rollout).log_probs
    assert rollout.ref_log_probs is not None
    expected = aggregate_loss(kl_divergence(log_probs, rollout.ref_log_probs, estimator), rollout.response_mask)
    torch.testing.assert_close(losses[0.7] - losses[0.0], 0.7 * expected)
    torch.testing.assert_close(stats["update/kl_loss"], expected.detach())
    assert expected.item() > 0.1


def test_a_penalty_in_the_loss_needs_a_reference_too() -> None:
    with pytest.raises(ValueError, match="needs a reference policy"):
        PPOUpdate(kl_place="loss", kl_estimator="k2").estimate_advantages(_two_rows())


def test_the_coefficient_by_hand() -> None:
    """Target 6: at 6.6 the error is 0.1, at 60 it is cut to 0.2, at 0 to -0.2."""
    assert adapt_kl_coef(0.5, 6.6, 6.0) == pytest.approx(0.5 * 1.01)
    assert adapt_kl_coef(0.5, 60.0, 6.0) == pytest.approx(0.5 * 1.02)
    assert adapt_kl_coef(0.5, 0.0, 6.0, gain=1.0) == pytest.approx(0.5 * 0.8)
    assert adapt_kl_coef(0.5, 6.0, 6.0) == 0.5
    for target, gain in ((0.0, 0.1), (1.0, 5.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="the target must be positive"):
            adapt_kl_coef(0.5, 1.0, target, gain)


def test_the_coefficient_moves_towards_the_target_and_is_saved() -> None:
    module, stats = Tokens(2), Stats()
    first = response_kl(module.complete(module.drawn))
    update = PPOUpdate(kl_coef=0.5, kl_target=2 * abs(first))
    fit(module, update, stats)
    used = [float(one["update/kl_coef"]) for one in stats.seen]
    assert used[0] == 0.5
    assert used[1] == pytest.approx(adapt_kl_coef(0.5, first, 2 * abs(first)))
    assert update.kl_coef != used[1]
    again = PPOUpdate(kl_coef=0.5, kl_target=1.0)
    assert again.state_key == update.state_key == "PPOUpdate"
    again.load_state_dict(update.state_dict())
    assert again.kl_coef == update.kl_coef
    fixed = PPOUpdate(kl_coef=0.3)
    assert fixed.state_dict() == {}
    fixed.load_state_dict(update.state_dict())
    assert fixed.kl_coef == 0.3


def test_the_kl_of_a_response_is_the_sum_over_its_steps() -> None:
    """1 nat a step at lengths 2 and 3: 2.5 a response."""
    rollout = _two_rows().replace(log_probs=torch.full((2, 3), -1.0), ref_log_probs=torch.full((2, 3), -2.0))
    assert response_kl(rollout) == 2.5


def test_the_policy_stays_bit_for_bit_while_the_critic_warms_up() -> None:
    module, stats = Tokens(3), Stats()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    update = PPOUpdate(epochs=2, minibatch_size=8, microbatch_size=4, critic_warmup_iterations=3, entropy_coef=0.1)
    fit(module, update, stats)
    after = module.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved == {"critic.weight", "critic.bias"}
    assert module.policy.weight.grad is None  # nor does it cost a backward pass
    assert all("update/grad_norm_critic" in one and "update/grad_norm_policy" not in one for one in stats.seen)


def test_after_its_warm_up_both_learn() -> None:
    module, stats = Tokens(3), Stats()
    before = module.policy.weight.clone()
    fit(module, PPOUpdate(critic_warmup_iterations=2), stats)
    assert not torch.equal(before, module.policy.weight)
    assert ["update/grad_norm_policy" in one for one in stats.seen] == [False, False, True]


class Forgetful(Tokens):
    """Acts with other log-probabilities than it is scored with, as dropout would make it."""

    def complete(self, rollout: Rollout) -> Rollout:
        completed: Rollout = super().complete(rollout)
        assert completed.log_probs is not None
        return completed.replace(log_probs=completed.log_probs - 0.05)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_ratio_is_one_at_every_valid_token_before_the_first_step(microbatch_size: int | None) -> None:
    module, stats = Tokens(3), Stats()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="before the first step")
        fit(module, PPOUpdate(epochs=2, minibatch_size=8, microbatch_size=microbatch_size), stats)
    assert [float(one["update/ratio_error_first_minibatch"]) < 1e-5 for one in stats.seen] == [True] * 3
    assert all(abs(float(one["update/ratio_mean"]) - 1) > 1e-5 for one in stats.seen)  # later steps move it


def test_a_ratio_off_one_before_the_first_step_is_warned_of_once() -> None:
    """exp(0.05) - 1."""
    stats = Stats()
    with pytest.warns(UserWarning, match=r"a ratio of PPO is off 1 by 0\.0513") as seen:
        fit(Forgetful(2), PPOUpdate(), stats)
    assert sum("before the first step" in str(one.message) for one in seen) == 1
    assert float(stats.seen[0]["update/ratio_error_first_minibatch"]) == pytest.approx(0.0513, abs=1e-4)


@pytest.mark.parametrize("estimator", ["gae", "leave_one_out"])
@pytest.mark.parametrize("whiten", [True, False])
def test_advantages_are_zero_off_the_mask(estimator: Any, whiten: bool) -> None:
    module = Tokens()
    update = PPOUpdate(advantage_estimator=estimator, whiten_advantages=whiten)
    estimated = update.estimate_advantages(module.complete(module.drawn))
    assert estimated.advantages is not None
    assert (estimated.advantages[~estimated.response_mask] == 0).all()
    assert (estimated.advantages[estimated.response_mask] != 0).any()


class ShareOfLetter(Reward):
    """Share of a completion's characters that are the letter e."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([text.count("e") / max(len(text), 1) for text in completions])


@pytest.mark.parametrize("critic", ["shared_trunk", "own_trunk"])
def test_a_language_models_critic_starts_at_zero_and_warms_up_alone(
    critic: Any, tiny_model: str, tasks: list[dict[str, object]]
) -> None:
    """With everything that could move the policy: entropy, KL, weight decay and a schedule."""
    module = CodePolicy(
        tiny_model, ShareOfLetter(), num_samples=2, max_new_tokens=4, critic=critic, warmup_ratio=0.0, max_iterations=2
    )
    batch = tasks[:2]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    update = PPOUpdate(kl_coef=0.1, entropy_coef=0.1, microbatch_size=2, critic_warmup_iterations=2)
    seen: list[Tensor] = []

    class Values(PolicyCallback):
        def on_update_end(self, trainer: Any, module: Any, rollout: Rollout, stats: Any) -> None:
            assert rollout.values is not None
            seen.append(rollout.values)

    trainer = Trainer(
        max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[update, Values()]
    )
    trainer.fit(module, DataLoader(batch, batch_size=2, collate_fn=list))  # type: ignore[arg-type]
    assert (seen[0] == 0).all()
    assert (seen[1] != 0).any()
    moved = {
        name.split(".")[0] for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"critic"}


@pytest.mark.parametrize(
    "options", [{"clip_range": -1.0}, {"value_clip_range": 0.0}, {"max_grad_norm": float("nan")}, {"gamma": 2.0}]
)
def test_what_no_step_could_use_is_refused_when_the_update_is_made(options: dict[str, float]) -> None:
    """Not at the first step, when the models have been loaded and the first responses sampled."""
    with pytest.raises(ValueError, match=next(iter(options))):
        PPOUpdate(**options)  # type: ignore[arg-type]
