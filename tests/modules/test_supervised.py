"""Supervised fine-tuning and reward modelling on small real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from tamis.callbacks import ModelExport
from tamis.datamodules import Instructions, Preferences
from tamis.modules import LearnedReward, RewardModel, SupervisedFineTuning
from tamis.modules.language_model import load_causal_lm, load_tokenizer, tokenize


def _adam(lr: float) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


def _trainer(folder: Path, epochs: int, *callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_the_loss_is_the_completions_cross_entropy(tiny_model: str) -> None:
    """Against one pair at a time, without padding: mean over all completion tokens, the end token included."""
    module = SupervisedFineTuning(tiny_model)
    batch = [{"prompt": "def f(x):\n", "completion": "    return x\n"}, {"prompt": "a", "completion": " b c d e"}]
    loss, count = module._loss(batch)
    tokenizer, total, tokens = load_tokenizer(tiny_model), 0.0, 0
    for record in batch:
        prompt, completion = tokenize(tokenizer, [record["prompt"], record["completion"]])
        ids = torch.tensor([[*prompt, *completion, tokenizer.eos_token_id]])
        logits = module.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        total += F.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        tokens += len(completion) + 1
    assert count == tokens
    assert loss.item() == pytest.approx(total / tokens, rel=1e-4)


def test_fine_tuning_learns_its_demonstrations_and_leaves_a_model(
    tiny_model: str, quickstart: Path, tmp_path: Path
) -> None:
    module = SupervisedFineTuning(tiny_model, optimizer=_adam(3e-3), schedule="constant", warmup_ratio=0.0)
    data = Instructions(f"{quickstart / 'tasks' / 'demonstrations.jsonl'}[:32]", batch_size=16)
    data.setup("fit")
    before = float(module._loss(data.records["train"])[0])
    _trainer(tmp_path, 20, ModelExport()).fit(module, data)
    assert float(module._loss(data.records["train"])[0]) < before / 3
    exported = load_causal_lm(str(tmp_path / "model"))
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(exported(input_ids=ids).logits, module.model(input_ids=ids).logits)


def test_export_does_not_overwrite(tiny_model: str, quickstart: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    data = Instructions(str(quickstart / "tasks" / "demonstrations.jsonl"))
    with pytest.raises(FileExistsError, match="already holds a model"):
        _trainer(tmp_path, 1, ModelExport()).fit(SupervisedFineTuning(tiny_model), data)


def test_a_score_does_not_depend_on_its_company(tiny_model: str) -> None:
    module = RewardModel(tiny_model)
    torch.nn.init.normal_(module.model.head.weight)
    prompts, responses = ["def f(x):\n", "short", "a longer prompt\n"], ["    return x\n", "b", "    pass\n"]
    with torch.no_grad():
        together = module.score(prompts, responses)
        alone = [module.score([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)


def test_a_reward_model_learns_an_easy_preference(tiny_model: str, pairs: Path, tmp_path: Path) -> None:
    module = RewardModel(tiny_model, optimizer=_adam(1e-3), warmup_ratio=0.0)
    trainer = _trainer(tmp_path, 4, ModelExport())
    trainer.fit(module, Preferences(str(pairs), batch_size=16))
    assert trainer.callback_metrics["val/accuracy"] > 0.9
    again = RewardModel(str(tmp_path / "model"))
    assert (again.model.reward_mean, again.model.reward_std) == (module.model.reward_mean, module.model.reward_std)
    assert module.model.reward_std != 1.0
    record, answers = {"prompt": "def f(x):\n"}, ["    return None\n", "    return x\n"]
    learned = LearnedReward(str(tmp_path / "model"))
    raw = module.score([record["prompt"]] * 2, answers)
    torch.testing.assert_close(learned([record] * 2, answers), module.model.normalise(raw))
    assert learned([record] * 2, answers).diff() > 0
