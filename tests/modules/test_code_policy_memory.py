"""What bounds a code policy's memory and chooses its sampler, and the input that is refused before training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import PPOUpdate
from tamis.datamodules import CodeTasks
from tamis.modules import CodePolicy, Reward
from tamis.modules.language_model import load_tokenizer
from tamis.modules.rewards import LearnedReward
from tamis.modules.scalar_head import ScalarHeadModel
from tamis.rollout import Rollout

Tasks = list[dict[str, object]]


class Length(Reward):
    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(text)) for text in completions])


def _policy(model: str, **options: Any) -> CodePolicy:
    defaults = {"reward": Length(), "max_new_tokens": 6, "num_samples": 3, "max_iterations": 1}
    return CodePolicy(model, **{**defaults, **options})


def _fit(module: CodePolicy, data: Any, folder: Path) -> Trainer:
    trainer = Trainer(
        max_epochs=-1, accelerator="cpu", callbacks=[PPOUpdate()], logger=False, default_root_dir=str(folder),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


def _loader(tasks: Tasks) -> DataLoader[Any]:
    return DataLoader(tasks, batch_size=2, collate_fn=list)  # type: ignore[arg-type]


def _same_draws(first: Rollout, second: Rollout) -> bool:
    return torch.equal(first.actions, second.actions) and torch.equal(first.response_mask, second.response_mask)


@pytest.mark.parametrize("options", [{"sample_batch_size": 4}, {"sample_batch_size": 1}, {"generator": "transformers"}])
def test_how_it_samples_changes_no_rollout(options: dict[str, Any], tiny_model: str, tasks: Tasks) -> None:
    expected, other = (_policy(tiny_model, **given).act(tasks[:4]) for given in ({}, options))
    assert _same_draws(expected, other)
    assert expected.records == other.records


def test_ranks_draw_what_one_process_draws(tiny_model: str, tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are dealt to the ranks in turn, as Lightning's sampler does it."""
    whole = _policy(tiny_model).act(tasks[:4]).records
    for rank in range(2):
        module = _policy(tiny_model)
        monkeypatch.setattr(module, "_trainer", SimpleNamespace(world_size=2, global_rank=rank))
        part = module.act(tasks[rank:4:2]).records
        assert part == [row for row in whole if row["task_id"] in {task["task_id"] for task in tasks[rank:4:2]}]
    assert len({str(row["completion"]) for row in whole}) > 6


@pytest.mark.parametrize("critic", ["shared_trunk", "own_trunk"])
@pytest.mark.parametrize("size", [1, 4])
def test_scoring_in_parts_changes_no_number_and_puts_rows_in_order_of_length(
    size: int, critic: Any, tiny_model: str, tasks: Tasks
) -> None:
    together, parted = (_policy(tiny_model, critic=critic, score_batch_size=given) for given in (100, size))
    parted.load_state_dict(together.state_dict())
    rollout = together.act(tasks[:3])
    whole, parts = together.complete(rollout), parted.complete(rollout)
    for name in ("log_probs", "values", "ref_log_probs"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-6, rtol=1e-6)
    assert parts.records == whole.records
    lengths = parts.observations["prompt_mask"].sum(1) + parts.response_mask.sum(1)
    assert lengths.tolist() == sorted(lengths.tolist())
    assert sorted(str(row) for row in parts.records) == sorted(str(row) for row in rollout.records)


def test_rewards_do_not_hang_on_the_parts_they_are_scored_in(reward_folder: Path, tasks: Tasks) -> None:
    texts = ["return 1", "", "x" * 40, "return xs[1:]", "    y", "return 1"]
    records = [tasks[index % 3] for index in range(len(texts))]
    alone, parted, together = (LearnedReward(str(reward_folder), batch_size=size) for size in (1, 4, 100))
    expected = torch.cat([alone([record], [text]) for record, text in zip(records, texts, strict=True)])
    assert len(set(expected.tolist())) > 3
    for reward in (parted, together):
        torch.testing.assert_close(reward(records, texts), expected, atol=1e-5, rtol=1e-5)
    widths: list[int] = []
    parted.reward_model.model.trunk.register_forward_pre_hook(
        lambda _, __, given: widths.append(len(given["input_ids"])), with_kwargs=True
    )
    parted(records, texts)
    assert widths == [4, 2]


def test_the_options_reach_the_sampler(tiny_model: str, tasks: Tasks) -> None:
    """Rows a forward: each prompt once and its three samples, one prompt at a time, or all samples from the start."""
    cases: list[tuple[dict[str, Any], set[int]]] = [
        ({}, {2, 6}),
        ({"sample_batch_size": 3}, {1, 3}),
        ({"generator": "transformers"}, {6}),
    ]
    for options, widths in cases:
        module = _policy(tiny_model, max_new_tokens=2, **options)
        rows: set[int] = set()
        module.policy.register_forward_pre_hook(
            lambda _, __, given, rows=rows: rows.add(len(given["input_ids"])), with_kwargs=True
        )
        module.act(tasks[:2])
        assert rows <= widths
        assert min(widths) in rows


def test_a_nucleus_in_training_has_to_be_allowed_by_name(tiny_model: str, tasks: Tasks) -> None:
    """Its renormalised probabilities are not those that scoring sees; other ways to truncate there are none."""
    with pytest.raises(ValueError, match="top_p=0.9 draws from another distribution .*allow_off_policy_sampling=true"):
        _policy(tiny_model, top_p=0.9)
    for option in ("top_k", "min_p", "repetition_penalty"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            _policy(tiny_model, **{option: 0.9})
    with pytest.raises(ValueError, match="top_p must lie above 0"):
        _policy(tiny_model, top_p=0.0, allow_off_policy_sampling=True)
    # The smallest nucleus is the most likely token.
    module = _policy(tiny_model, top_p=1e-6, allow_off_policy_sampling=True)
    greedy = [row["completion"] for row in module.judged_samples(tasks[:2], 3, 0.0)]
    assert [row["completion"] for row in module.act(tasks[:2]).records] == greedy
    assert [row["completion"] for row in module.predict_step(tasks[:2], 0)] == greedy


def test_every_end_token_of_the_model_ends_a_rollout(tiny_model: str, tasks: Tasks) -> None:
    module = _policy(tiny_model, max_new_tokens=20)
    assert module.policy.generation_config is not None
    more = list(range(2, 200))
    module.policy.generation_config.eos_token_id = more
    rollout = module.act(tasks[:4])
    assert rollout.truncated is not None
    ends = {module.tokenizer.eos_token_id, *more}
    for row in range(12):
        ids = rollout.actions[row][rollout.response_mask[row]].tolist()
        assert not ends & set(ids[:-1])
        assert bool(rollout.truncated[row]) == (ids[-1] not in ends)


def _gradients(module: CodePolicy, rollout: Rollout) -> list[Tensor | None]:
    evaluation = module.evaluate_actions(rollout)
    assert evaluation.values is not None
    (evaluation.log_probs.sum() + evaluation.entropy.sum() + evaluation.values.sum()).backward()
    return [parameter.grad for network in module.networks().values() for parameter in network.parameters()]


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_checkpointing_computes_layers_again_and_gives_the_same_gradients(
    lora_rank: int, tiny_model: str, tasks: Tasks
) -> None:
    results, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = _policy(tiny_model, critic="own_trunk", lora_rank=lora_rank, gradient_checkpointing=checkpointing)
        assert isinstance(module.critic, ScalarHeadModel)
        torch.nn.init.normal_(module.critic.head.weight, std=0.1)
        rollout = module.act(tasks[:2])
        seen: list[str] = []
        for network in module.networks().values():
            layer = next(part for name, part in network.named_modules() if name.endswith("layers.1.mlp"))
            layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append("layer"))
        results.append((rollout, _gradients(module, rollout)))
        calls.append(len(seen))
    assert calls == [2, 4]
    (first, grads), (second, again) = results
    assert _same_draws(first, second)
    assert any(grad is not None for grad in grads)
    for grad, other in zip(grads, again, strict=True):
        assert (grad is None) == (other is None)
        if grad is not None:
            torch.testing.assert_close(other, grad, atol=1e-5, rtol=1e-5)


def test_half_precision_weights_and_exact_scores(tiny_model: str, tasks: Tasks, tmp_path: Path) -> None:
    """Weights of the three networks in bfloat16, heads and all scores in fp32, and the ratio is 1 before the step."""
    module = _policy(tiny_model, critic="own_trunk", dtype="bfloat16")
    assert module.reference is not None
    assert isinstance(module.critic, ScalarHeadModel)
    for network in (module.policy, module.reference, module.critic.trunk):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert module.critic.head.weight.dtype == torch.float32
    rollout = module.complete(module.act(tasks[:2]))
    for scores in (rollout.log_probs, rollout.ref_log_probs, rollout.values):
        assert scores is not None
        assert scores.dtype == torch.float32
    assert rollout.log_probs is not None
    again = module.evaluate_actions(rollout).log_probs
    torch.testing.assert_close((again - rollout.log_probs).exp(), torch.ones_like(again), atol=1e-5, rtol=0)
    exact = _policy(tiny_model).complete(rollout).log_probs
    torch.testing.assert_close(exact, rollout.log_probs, atol=0.1, rtol=0.05)
    _fit(module, _loader(tasks[:4]), tmp_path)
    assert {parameter.dtype for parameter in module.policy.parameters()} == {torch.bfloat16}


def test_an_adapter_is_in_full_precision(tiny_model: str) -> None:
    module = _policy(tiny_model, lora_rank=2, dtype="bfloat16", critic="none")
    kinds = {("lora" in name, parameter.dtype) for name, parameter in module.policy.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def _other_vocabulary(tiny_model: str, folder: Path) -> str:
    """The same model with a tokenizer in which two words have changed places."""
    for file in Path(tiny_model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]
    path.write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("option", ["reference_path", "critic_path"])
def test_another_vocabulary_is_refused(option: str, tiny_model: str, tmp_path: Path) -> None:
    other = _other_vocabulary(tiny_model, tmp_path)
    with pytest.raises(ValueError, match=rf"{option}=.* has another vocabulary .*'x' is \d+ there and \d+ here"):
        _policy(tiny_model, critic="own_trunk", **{option: other})


def test_a_reference_of_another_path(tiny_model: str, reward_folder: Path, tasks: Tasks) -> None:
    """With and without an adapter, whose reference would be the bare base."""
    for lora_rank in (0, 2):
        module = _policy(tiny_model, reference_path=tiny_model, lora_rank=lora_rank)
        assert module.reference is not None
        assert not any(parameter.requires_grad for parameter in module.reference.parameters())
        before = module.complete(module.act(tasks[:2])).ref_log_probs
        with torch.no_grad():
            module.reference.get_output_embeddings().weight.mul_(1.5)
        after = module.complete(module.act(tasks[:2])).ref_log_probs
        assert before is not None
        assert after is not None
        assert not torch.allclose(before, after, atol=1e-3)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tiny_model: str, tmp_path: Path) -> None:
    for file in Path(tiny_model).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has the token '<\|more\|>' with the id 640, and the model has 640 tokens"):
        _policy(str(tmp_path))


def test_a_prompt_beyond_the_context_is_found_before_training(tiny_model: str, tasks: Tasks, tmp_path: Path) -> None:
    """The last of the tasks: no step is taken before it is seen."""
    module = _policy(tiny_model, max_iterations=4)
    long = {**tasks[0], "task_id": "the long one", "prompt": "x = 1\n" * 200}
    steps: list[int] = []
    module.on_train_batch_start = lambda *_: steps.append(1)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"'the long one' .* has \d+ tokens, .* more than the 512 positions"):
        _fit(module, _loader([*tasks[:5], long]), tmp_path)
    assert not steps


def test_the_longest_prompt_that_the_context_holds(tmp_path: Path, tiny_model: str) -> None:
    """Learned positions: one more would be an index error deep inside the model."""
    tokenizer = load_tokenizer(tiny_model)
    config = transformers.GPT2Config(vocab_size=640, n_embd=16, n_layer=1, n_head=2, n_positions=24)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompt = tokenizer.decode(tokenizer("def f(xs):\n    return xs[1:] + xs[:1]\n" * 3)["input_ids"][:18])
    assert len(tokenizer(prompt)["input_ids"]) == 18
    module = _policy(str(tmp_path))
    rollout = module.complete(module.act([{"task_id": "t", "prompt": prompt}]))
    assert rollout.log_probs is not None
    assert rollout.log_probs.isfinite().all()
    with pytest.raises(ValueError, match="has 18 tokens, which with max_new_tokens=7 are more than the 24 positions"):
        _policy(str(tmp_path), max_new_tokens=7).act([{"task_id": "t", "prompt": prompt}])


def test_an_empty_data_set_is_refused(tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"empty\.jsonl|0 training records"):
        _fit(_policy(tiny_model), CodeTasks(train=str(tmp_path / "empty.jsonl")), tmp_path)


def test_sizes_that_make_no_sense(tiny_model: str) -> None:
    with pytest.raises(ValueError, match="sample_batch_size must be at least 1 or null"):
        _policy(tiny_model, sample_batch_size=0)
    with pytest.raises(ValueError, match="score_batch_size must be at least 1"):
        _policy(tiny_model, score_batch_size=0)
