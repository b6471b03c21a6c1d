"""The pieces of CodePolicy one by one: scores, values, texts, judged samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import PPOUpdate
from tamis.generation import Samples
from tamis.modules import CodePolicy, LearnedReward, Reward
from tamis.modules.language_model import TokenBatch
from tamis.modules.scalar_head import ScalarHeadModel, ValueHead
from tamis.rollout import Rollout

Tasks = list[dict[str, object]]
# Whatever follows the prompt is a comment, until its line ends: some samples pass and some do not.
TASK = {"prompt": "def f():\n    return 1\n#", "entry_point": "f", "test": "def check(f):\n    assert f() == 1\n"}


class Length(Reward):
    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in completions])


def _policy(model: str, reward: Reward | None = None, **options: Any) -> CodePolicy:
    return CodePolicy(model, reward, **{"max_new_tokens": 6, "num_samples": 3, "max_iterations": 2, **options})


def _filled(module: CodePolicy) -> CodePolicy:
    """Critics start at zero; give this one something to say."""
    assert module.critic is not None
    for parameter in module.critic.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module


def _rollout(module: CodePolicy, lengths: tuple[int, ...] = (6, 2, 4)) -> Rollout:
    """Sampled rows, cut to different lengths."""
    rollout = module.act([{"task_id": "t", "prompt": "def f(xs):\n", "task": TASK}])
    width = rollout.actions.shape[1]
    return rollout.replace(response_mask=torch.arange(width) < torch.tensor(lengths).unsqueeze(1))


def _slow_values(module: CodePolicy, rollout: Rollout, row: int, step: int) -> Tensor:
    """The critic's number for the state in which a step was taken: all it may see are the tokens before it."""
    ids = torch.cat([rollout.observations["prompt_ids"][row], rollout.actions[row, :step]]).unsqueeze(0)
    number: Tensor
    if isinstance(module.critic, ScalarHeadModel):
        number = module.critic(TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)))[0, -1]
        return number
    assert isinstance(module.critic, ValueHead)
    number = module.critic(module.policy(input_ids=ids, output_hidden_states=True).hidden_states[-1])[0, -1]
    return number


@pytest.mark.parametrize("critic", ["shared_trunk", "own_trunk"])
def test_scores_equal_slow_references(critic: Any, tiny_model: str) -> None:
    module = _filled(_policy(tiny_model, critic=critic, temperature=0.6))
    rollout = _rollout(module)
    with torch.no_grad():
        evaluation = module.evaluate_actions(rollout)
        assert evaluation.values is not None
        for row in range(3):
            for step in range(rollout.actions.shape[1]):
                if not rollout.response_mask[row, step]:
                    assert evaluation.values[row, step] == evaluation.log_probs[row, step] == 0
                    continue
                value = _slow_values(module, rollout, row, step)
                torch.testing.assert_close(evaluation.values[row, step], value, atol=1e-5, rtol=1e-4)
                ids = torch.cat([rollout.observations["prompt_ids"][row], rollout.actions[row, :step]]).unsqueeze(0)
                logits = module.policy(input_ids=ids).logits[0, -1]
                expected = torch.log_softmax(logits / 0.6, -1)[rollout.actions[row, step]]
                torch.testing.assert_close(evaluation.log_probs[row, step], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("critic", ["shared_trunk", "own_trunk"])
def test_the_value_loss_leaves_the_policy_alone(critic: Any, tiny_model: str) -> None:
    module = _filled(_policy(tiny_model, critic=critic))
    values = module.evaluate_actions(_rollout(module)).values
    assert values is not None
    values.sum().backward()
    assert module.critic is not None
    assert all(parameter.grad is None for parameter in module.policy.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in module.critic.parameters())


def test_completing_costs_no_graph_and_the_reference_is_frozen(tiny_model: str) -> None:
    module = _policy(tiny_model)
    for parameter in module.policy.parameters():
        parameter.data.add_(0.01)
    rollout = module.complete(_rollout(module))
    for scores in (rollout.log_probs, rollout.ref_log_probs, rollout.values):
        assert scores is not None
        assert not scores.requires_grad
    assert rollout.log_probs is not None
    assert rollout.ref_log_probs is not None
    assert not torch.allclose(rollout.log_probs, rollout.ref_log_probs, atol=1e-3)
    assert module.reference is not None
    assert not any(parameter.requires_grad for parameter in module.reference.parameters())
    assert _policy(tiny_model, reference=False).complete(rollout).ref_log_probs is None


def test_every_row_belongs_to_its_prompt(tiny_model: str, tasks: Tasks) -> None:
    module = _policy(tiny_model, num_samples=8)
    rollout = module.act(tasks[:3])
    eos = module.tokenizer.eos_token_id
    assert [record["task_id"] for record in rollout.records] == [tasks[row // 8]["task_id"] for row in range(24)]
    assert rollout.truncated is not None
    for row, record in enumerate(rollout.records):
        prompt = rollout.observations["prompt_ids"][row][rollout.observations["prompt_mask"][row]]
        assert module.tokenizer.decode(prompt, clean_up_tokenization_spaces=False) == record["prompt"]
        last = int(rollout.actions[row][rollout.response_mask[row]][-1])
        assert bool(rollout.truncated[row]) == (last != eos)


def test_texts_end_where_the_row_ends(tiny_model: str) -> None:
    """Whatever stands behind the end is padding; the last token counts, also of a row that was cut off."""
    module = _policy(tiny_model)
    ids = module.tokenizer("return xs[1:]", add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[*ids, *ids], [*ids, module.tokenizer.eos_token_id, *ids[1:]]])
    mask = torch.arange(len(tokens[0])) < torch.tensor([[len(ids)], [len(ids) + 1]])
    assert module.writer.texts(Samples(tokens, mask, torch.tensor([True, False]))) == ["return xs[1:]"] * 2


def test_the_longest_prompt_that_fits_is_taken(tiny_model: str, tasks: Tasks) -> None:
    module = _policy(tiny_model)
    length = int(module.act(tasks[:1]).observations["prompt_mask"][0].sum())
    assert len(_policy(tiny_model, max_prompt_tokens=length).act(tasks[:1])) == 3
    with pytest.raises(ValueError, match=f"has {length} tokens"):
        _policy(tiny_model, max_prompt_tokens=length - 1).act(tasks[:1])


def test_greedy_is_for_evaluation_only(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="temperature must be positive to sample, got 0"):
        _policy(tiny_model, temperature=0.0)


def test_evaluation_and_prediction_sample_in_their_own_ways(tiny_model: str) -> None:
    module = _policy(tiny_model, Length())
    batch: list[dict[str, Any]] = [{"task_id": name, "prompt": TASK["prompt"], "task": TASK} for name in "abc"]
    try:
        greedy = module.test_step(batch, 0)["samples"]
        sampled = [module.predict_step(part, index) for index, part in enumerate((batch, batch[::-1], batch[1:2]))]
    finally:
        module.teardown("test")
    assert len({row["completion"] for row in greedy}) == 1  # temperature 0, and one prompt
    texts = [{(row["task_id"], row["sample"]): row["completion"] for row in rows} for rows in sampled]
    assert [len(rows) for rows in texts] == [9, 9, 3]
    assert len(set(texts[0].values())) > 6  # the same prompt is not answered alike by tasks of other names
    assert texts[0] == texts[1] == texts[0] | texts[2]  # and a task's answers do not depend on its company
    assert all(row["reward"] == len(row["completion"]) for rows in sampled for row in rows)
    assert module.verifier._sandbox is None


def test_records_may_stop_their_texts(tiny_model: str) -> None:
    """Each record its own strings, in evaluation and prediction; a row that was stopped is not truncated."""
    module = _policy(tiny_model, max_new_tokens=24, eval_samples=2, eval_temperature=1.0)
    free: list[dict[str, Any]] = [{"task_id": name, "prompt": TASK["prompt"], "task": TASK} for name in "ab"]
    stopped = [{**free[0], "stop": ["\n"]}, {**free[1], "stop": []}]
    try:
        whole, cut = (module.test_step(batch, 0)["samples"] for batch in (free, stopped))
        acted = [module.act(batch).records for batch in (free, stopped)]
    finally:
        module.teardown("test")
    lines = [row["completion"].split("\n")[0] for row in whole[:2]]
    assert any("\n" in row["completion"] for row in whole[:2])
    assert [row["completion"] for row in cut] == [*lines, *(row["completion"] for row in whole[2:])]
    for before, after in zip(whole[:2], cut[:2], strict=True):
        assert after["truncated"] == (before["truncated"] and "\n" not in before["completion"])
    assert [row["passed"] for row in cut[:2]] == [True, True]  # the rest of the comment's line says nothing
    completions = [[record["completion"] for record in records] for records in acted]
    assert completions[0] == completions[1]  # training's rollouts know no stop strings


def _trainer(folder: Path, *callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        default_root_dir=str(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_pass_at_1_is_the_share_of_samples_that_pass(tiny_model: str, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Kept(CodePolicy):
        def test_step(self, batch: Any, batch_idx: int) -> dict[str, list[dict[str, Any]]]:
            outputs = super().test_step(batch, batch_idx)
            seen.extend(outputs["samples"])
            return outputs

    records = [{"task_id": index, "prompt": TASK["prompt"], "task": TASK} for index in range(4)]
    module = Kept(tiny_model, max_new_tokens=4, critic="none", reference=False, eval_samples=6, eval_temperature=1.0)
    trainer = _trainer(tmp_path)
    trainer.test(module, DataLoader(records, batch_size=2, collate_fn=list), verbose=False)  # type: ignore[arg-type]
    rate = sum(row["passed"] for row in seen) / 24
    assert 0 < rate < 1
    assert float(trainer.callback_metrics["test/pass@1"]) == pytest.approx(rate)


def test_the_schedule_ends_with_the_run_and_checkpoints_hold_what_was_trained(
    tiny_model: str, reward_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    module = _policy(tiny_model, LearnedReward(str(reward_folder)), schedule="linear", warmup_ratio=0.0)
    trainer = _trainer(tmp_path, PPOUpdate())
    trainer.fit(module, DataLoader(tasks, batch_size=2, collate_fn=list))  # type: ignore[arg-type]
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [0.0, 0.0]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"policy", "critic"}


def test_a_critic_of_its_own_may_start_from_the_reward_model(tiny_model: str, reward_folder: Path) -> None:
    critic = _policy(tiny_model, critic="own_trunk", critic_path=str(reward_folder)).critic
    assert isinstance(critic, ScalarHeadModel)
    assert critic.head.weight.any()
    plain = _policy(tiny_model, critic="own_trunk").critic
    assert isinstance(plain, ScalarHeadModel)
    assert not plain.head.weight.any()
