"""DPO, IPO and KTO on small real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from tamis.callbacks import ModelExport
from tamis.datamodules import Preferences
from tamis.functional import dpo_loss, ipo_loss, kto_loss
from tamis.modules import PreferenceOptimization
from tamis.modules.language_model import load_causal_lm, load_tokenizer, tokenize

LOSSES = ("dpo", "ipo", "kto")
BATCH = [
    {"prompt": "def f(x):\n", "chosen": "    return x\n", "rejected": "    return None\n    pass\n"},
    {"prompt": "a longer prompt\n", "chosen": " b c d e", "rejected": " b"},
    {"prompt": "c", "chosen": "", "rejected": " d"},
]


def _adam(lr: float) -> Any:
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr)


def _moved(model: str, loss: Any = "dpo", **options: Any) -> PreferenceOptimization:
    """A module whose policy has left its reference."""
    module = PreferenceOptimization(model, loss, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def _log_prob(model: Any, folder: str, prompt: str, response: str) -> float:
    """One pair's side at a time, without padding, with torch's own cross-entropy."""
    tokenizer = load_tokenizer(folder)
    head, tail = tokenize(tokenizer, [prompt, response])
    ids = torch.tensor([[*head, *tail, tokenizer.eos_token_id]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(head) - 1 : -1]
    return -F.cross_entropy(logits, ids[0, len(head) :], reduction="sum").item()


def _alone(module: PreferenceOptimization, folder: str, side: str) -> list[float]:
    start = load_causal_lm(folder)
    return [
        _log_prob(module.model, folder, pair["prompt"], pair[side])
        - _log_prob(start, folder, pair["prompt"], pair[side])
        for pair in BATCH
    ]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_log_ratios_are_those_of_each_response_alone(tiny_model: str, lora_rank: int) -> None:
    module = _moved(tiny_model, lora_rank=lora_rank)
    chosen, rejected = module.log_ratios(BATCH)
    assert chosen.tolist() == pytest.approx(_alone(module, tiny_model, "chosen"), abs=1e-3)
    assert rejected.tolist() == pytest.approx(_alone(module, tiny_model, "rejected"), abs=1e-3)
    assert chosen.abs().min() > 0.01


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_before_the_first_step_the_model_is_its_reference(tiny_model: str, lora_rank: int) -> None:
    module = PreferenceOptimization(tiny_model, lora_rank=lora_rank)
    chosen, rejected = module.log_ratios(BATCH)
    torch.testing.assert_close(torch.cat([chosen, rejected]), torch.zeros(6), atol=1e-5, rtol=0)
    assert (module.reference is None) == (lora_rank > 0)
    assert not module._reference(module._tokens(BATCH)).requires_grad
    module._loss(BATCH)[0].backward()
    if module.reference is not None:
        assert all(parameter.grad is None for parameter in module.reference.parameters())


def test_an_adapter_to_start_from_is_its_own_reference(tiny_model: str, tmp_path: Path) -> None:
    """Its base alone would be far from it before the first step."""
    adapter: Any = _moved(tiny_model, lora_rank=4).model
    adapter.save_pretrained(tmp_path)
    load_tokenizer(tiny_model).save_pretrained(tmp_path)
    module = PreferenceOptimization(str(tmp_path))
    assert module.reference is None
    chosen, rejected = module.log_ratios(BATCH)
    torch.testing.assert_close(torch.cat([chosen, rejected]), torch.zeros(6), atol=1e-5, rtol=0)
    policy: Any = module.model
    with torch.no_grad(), policy.disable_adapter():
        bare = module._log_probs(policy, module._tokens(BATCH))
    assert (bare - module._reference(module._tokens(BATCH))).abs().max() > 0.01


@pytest.mark.parametrize(("name", "function"), [("dpo", dpo_loss), ("ipo", ipo_loss), ("kto", kto_loss)])
def test_the_loss_is_the_named_one(tiny_model: str, name: Any, function: Any) -> None:
    module = _moved(tiny_model, name, beta=0.3)
    chosen, rejected = module.log_ratios(BATCH)
    loss, metrics = module._loss(BATCH)
    torch.testing.assert_close(loss, function(chosen, rejected, 0.3).mean())
    assert metrics["accuracy"].item() == (chosen > rejected).float().mean().item()
    assert metrics["implicit_reward_chosen"].item() == pytest.approx(0.3 * chosen.mean().item())
    assert metrics["implicit_reward_rejected"].item() == pytest.approx(0.3 * rejected.mean().item())
    assert not any(value.requires_grad for value in metrics.values())


def test_both_sides_share_a_forward_and_the_reference_keeps_no_graph(tiny_model: str) -> None:
    module = PreferenceOptimization(tiny_model)
    shapes: list[torch.Tensor] = []
    for model in (module.model, module.reference):
        trunk: Any = model
        trunk.get_decoder().register_forward_hook(lambda _, __, output: shapes.append(output.last_hidden_state))
    module.log_ratios(BATCH)
    whole = [states for states in shapes if len(states) > 1]  # the head's chunks pass here as one row of tokens
    assert [len(states) for states in whole] == [6, 6]
    assert [states.requires_grad for states in whole] == [True, False]


def test_label_smoothing_is_that_of_dpo(tiny_model: str) -> None:
    module = _moved(tiny_model, label_smoothing=0.2)
    torch.testing.assert_close(module._loss(BATCH)[0], dpo_loss(*module.log_ratios(BATCH), 0.1, 0.2).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_training_prefers_the_chosen_and_leaves_a_model(
    tiny_model: str, pairs: Path, tmp_path: Path, loss: Any
) -> None:
    """Solutions above ``return None``, on prompts of which a tenth is held out."""
    module = PreferenceOptimization(tiny_model, loss, optimizer=_adam(1e-3), schedule="constant", warmup_ratio=0.0)
    data = Preferences(f"{pairs}[:64]", batch_size=8)
    data.setup("fit")
    with torch.no_grad():
        before = float(module._loss(data.records["train"])[0])
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[ModelExport()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    with torch.no_grad():
        after, metrics = module._loss(data.records["train"])
    assert float(after) < 0.8 * before
    assert metrics["accuracy"] > 0.9
    assert metrics["implicit_reward_chosen"] > metrics["implicit_reward_rejected"]
    names = {f"{split}/{name}" for split in ("train", "val") for name in metrics}
    assert names <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["val/accuracy"] > 0.9
    exported, ids = load_causal_lm(str(tmp_path / "model")), torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(exported(input_ids=ids).logits, module.model(input_ids=ids).logits)


def test_long_responses_are_cut_and_long_prompts_refused(tiny_model: str, tmp_path: Path) -> None:
    lengths = [len(row) for row in tokenize(load_tokenizer(tiny_model), [pair["prompt"] for pair in BATCH])]
    module = PreferenceOptimization(tiny_model, max_length=max(lengths) + 1)
    tokens = module._tokens(BATCH)
    total = tokens.prompts.mask.sum(1) + tokens.responses.mask.sum(1)
    assert total.max() == max(lengths) + 1
    assert (tokens.responses.mask.sum(1) >= 1).all()
    module = PreferenceOptimization(tiny_model, max_length=max(lengths))
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in BATCH[:2]))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, max_epochs=1)  # fmt: skip
    with pytest.raises(ValueError, match=r"prompt of .*pairs.jsonl:\d has \d+ tokens; .* Raise max_length"):
        trainer.fit(module, Preferences(str(path), validation_share=0.0, batch_size=2))
    assert trainer.global_step == 0


def test_bad_options_are_named(tiny_model: str) -> None:
    for options, message in (
        ({"loss": "simpo"}, "loss must be dpo, ipo or kto, got 'simpo'"),
        ({"beta": -1.0}, "beta must be positive, got -1.0"),
        ({"label_smoothing": 0.7}, r"must lie in \[0, 0.5\), got 0.7"),
        ({"loss": "kto", "label_smoothing": 0.1}, "label_smoothing belongs to dpo, and kto has none"),
    ):
        wrong: Any = options
        with pytest.raises(ValueError, match=message):
            PreferenceOptimization(tiny_model, **wrong)


def test_the_reference_is_not_in_checkpoints(tiny_model: str) -> None:
    module = PreferenceOptimization(tiny_model)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"model"}
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
