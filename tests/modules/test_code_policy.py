"""PF-PPO and its cross product on a real (small, untrained) language model and real programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import Filtration, PolicyCallback, PPOUpdate, ReinforceUpdate, RolloutMetrics
from tamis.modules import CodePolicy, LearnedReward, PolicyModule, Reward, UnitTests
from tamis.modules.language_model import load_causal_lm
from tamis.rollout import Rollout

Tasks = list[dict[str, object]]


class ShareOfLetter(Reward):
    """Share of a completion's characters that are the letter e: something an untrained model can learn at once."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([text.count("e") / max(len(text), 1) for text in completions])


class Seen(PolicyCallback):
    """Keeps the rollouts that were learned from, and the statistics."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []
        self.stats: list[dict[str, float]] = []

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        self.rollouts.append(rollout)
        self.stats.append({name: float(value) for name, value in stats.items()})


def _trainer(*callbacks: Any, **options: Any) -> Trainer:
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _loader(tasks: Tasks, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(tasks, batch_size=batch_size, collate_fn=list)  # type: ignore[arg-type]


def _adam(lr: float) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


def _policy(model: str, reward: Reward | None = None, **options: Any) -> CodePolicy:
    defaults = {"max_new_tokens": 6, "num_samples": 4, "max_iterations": 2, "warmup_ratio": 0.0}
    return CodePolicy(model, reward, **{**defaults, **options})


def _weights(module: torch.nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


UPDATES: dict[str, Any] = {
    "ppo": lambda: PPOUpdate(minibatch_size=4),
    "ppo_epochs": lambda: PPOUpdate(epochs=2),
    "rloo": lambda: ReinforceUpdate(baseline="leave_one_out", kl_coef=0.1),
}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("critic", ["shared_trunk", "own_trunk"])
def test_pf_ppo_trains_the_policy_and_nothing_frozen(
    update: str,
    critic: Any,
    tiny_model: str,
    reward_folder: Any,
    tasks: Tasks,
) -> None:
    seen = Seen()
    reward = LearnedReward(str(reward_folder))
    module = _policy(tiny_model, reward, critic=critic, policy_optimizer=_adam(1e-3), critic_optimizer=_adam(1e-3))
    assert module.reference is not None
    before = [_weights(network) for network in (module.policy, module.reference, reward)]
    _trainer(RolloutMetrics(), Filtration("best_worst", keep=2), UPDATES[update](), seen).fit(module, _loader(tasks))
    after = [_weights(network) for network in (module.policy, module.reference, reward)]
    changed = [not _same(*pair) for pair in zip(before, after, strict=True)]
    assert changed == [True, False, False]
    assert [len(rollout) for rollout in seen.rollouts] == [8, 8]  # 4 prompts, 2 of 4 kept
    for rollout in seen.rollouts:
        assert rollout.rewards is not None
        assert rollout.log_probs is not None
        best, worst = rollout.rewards[rollout.groups()].T
        assert (best >= worst).all()


def test_before_the_first_step_ratio_is_one_kl_is_zero_and_values_are_zero(
    tiny_model: str,
    reward_folder: Any,
    tasks: Tasks,
) -> None:
    seen = Seen()
    module = _policy(tiny_model, LearnedReward(str(reward_folder)), temperature=0.7, max_iterations=1)
    _trainer(Filtration("best_random"), PPOUpdate(), seen).fit(module, _loader(tasks))
    rollout = seen.rollouts[0]
    assert rollout.log_probs is not None
    assert rollout.ref_log_probs is not None
    assert rollout.values is not None
    assert seen.stats[0]["update/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(rollout.log_probs, rollout.ref_log_probs, atol=1e-6, rtol=0)
    assert (rollout.values == 0).all()


def test_discarded_rows_cost_no_scoring(tiny_model: str, reward_folder: Any, tasks: Tasks) -> None:
    """Rows that go through the policy's and the reference's transformers: the kept ones only."""
    module = _policy(tiny_model, LearnedReward(str(reward_folder)), max_iterations=1)
    rows: dict[str, list[int]] = {"policy": [], "reference": []}
    for name, model in (("policy", module.policy), ("reference", module.reference)):
        assert model is not None
        model.get_decoder().register_forward_pre_hook(
            lambda _, __, inputs, name=name: (
                rows[name].append(len(inputs["input_ids"]))
                if inputs["input_ids"] is not None and not inputs["use_cache"]
                else None  # sampling, or the head alone
            ),
            with_kwargs=True,
        )
    _trainer(Filtration("best_worst", keep=2), PPOUpdate()).fit(module, _loader(tasks))
    assert rows == {"policy": [8, 8], "reference": [8]}  # complete and one update; 16 rows were sampled


@pytest.mark.parametrize("update", ["ppo", "rloo"])
def test_the_policy_learns_what_is_rewarded(update: str, tiny_model: str, tasks: Tasks) -> None:
    module = _policy(
        tiny_model, ShareOfLetter(), num_samples=8, max_iterations=14, policy_optimizer=_adam(6e-3), schedule="constant"
    )
    means: list[float] = []

    class Means(PolicyCallback):
        def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
            assert rollout.rewards is not None
            means.append(float(rollout.rewards.mean()))
            return rollout

    callback = PPOUpdate(kl_coef=0.0, epochs=2) if update != "rloo" else ReinforceUpdate(max_grad_norm=1.0)
    _trainer(Means(), callback).fit(module, _loader(tasks, 8))
    assert sum(means[-2:]) > 3 * sum(means[:2])


def test_lora_trains_the_adapter_and_keeps_the_reference_inside(tiny_model: str, tasks: Tasks) -> None:
    seen = Seen()
    module = _policy(tiny_model, ShareOfLetter(), lora_rank=2, policy_optimizer=_adam(1e-2))
    assert module.reference is None
    base = [tensor.clone() for name, tensor in module.policy.state_dict().items() if "lora" not in name]
    _trainer(PPOUpdate(), seen).fit(module, _loader(tasks))
    assert _same(base, [tensor for name, tensor in module.policy.state_dict().items() if "lora" not in name])
    first, second = seen.rollouts
    assert first.log_probs is not None
    assert first.ref_log_probs is not None
    torch.testing.assert_close(first.log_probs, first.ref_log_probs, atol=1e-6, rtol=0)
    assert second.log_probs is not None
    assert second.ref_log_probs is not None
    assert not torch.allclose(second.log_probs, second.ref_log_probs, atol=1e-4)


def test_programs_are_really_run(tiny_model: str, tasks: Tasks) -> None:
    """Rewards of reference solutions and of wrong ones, by running the tests."""
    reward = UnitTests(passed=1.0, failed=-1.0)
    rows: list[Any] = tasks[:6]
    solutions = [row["task"]["canonical_solution"] for row in rows]
    try:
        assert reward(rows, solutions).tolist() == [1.0] * 6
        assert reward(rows, ["    return None\n"] * 6).tolist() == [-1.0] * 6
    finally:
        reward.close()


def test_checkpoints_leave_frozen_networks_out_and_load(tiny_model: str, tasks: Tasks, tmp_path: Any) -> None:
    module = _policy(tiny_model, ShareOfLetter(), policy_optimizer=_adam(1e-2))
    trainer = _trainer(PPOUpdate())
    trainer.fit(module, _loader(tasks))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not any(name.startswith("reference.") for name in state["state_dict"])
    assert state["iteration"] == 2
    again = CodePolicy.load_from_checkpoint(tmp_path / "last.ckpt")
    assert _same(_weights(module.policy), _weights(again.policy))
    assert again.reference is not None
    assert _same(_weights(again.reference), _weights(load_causal_lm(tiny_model)))


def test_the_same_seed_samples_the_same(tiny_model: str, tasks: Tasks) -> None:
    batch = tasks[:4]
    first, second = (_policy(tiny_model).act(batch) for _ in range(2))
    other = _policy(tiny_model, seed=1).act(batch)
    assert torch.equal(first.actions, second.actions)
    assert first.actions.shape != other.actions.shape or not torch.equal(first.actions, other.actions)
    assert first.group_ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_training_without_a_reward_says_how_to_give_one(tiny_model: str, tasks: Tasks) -> None:
    with pytest.raises(ValueError, match="--model.reward UnitTests"):
        _trainer(PPOUpdate()).fit(_policy(tiny_model), _loader(tasks))


def test_a_prompt_that_is_too_long_is_named(tiny_model: str, tasks: Tasks) -> None:
    with pytest.raises(
        ValueError, match=r"the prompt of task 'tamis/train/0' \(.*train.jsonl:1\) has \d+ tokens.*max_prompt_tokens=3"
    ):
        _policy(tiny_model, max_prompt_tokens=3).act(tasks[:1])
