"""Filter and update of every config of the loop, as they stand there, teach the quickstart's model the right way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis import callbacks
from tamis.callbacks import PolicyCallback
from tamis.modules import CodePolicy, PolicyModule, Reward
from tamis.rollout import Rollout

CONFIGS = Path(__file__).parents[2] / "configs" / "quickstart"
METHODS = ("ppo_s", "ppo_m", "pf_ppo_bon", "pf_ppo_br", "pf_ppo_bw", "rloo", "grpo", "raft", "bond", "iterative_dpo")


class Blanks(Reward):
    """Share of a completion's characters that are blank."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        return torch.tensor([sum(map(str.isspace, text)) / max(len(text), 1) for text in completions])


class Watch(PolicyCallback):
    """How an iteration's change of log-probability a token goes with the reward, over everything that it sampled."""

    def __init__(self) -> None:
        self.drawn: list[Rollout] = []
        self.before: list[Tensor] = []
        self.correlations: list[float] = []

    @torch.no_grad()
    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        self.drawn.append(rollout)
        self.before.append(module.evaluate_actions(rollout).log_probs)
        return rollout

    @torch.no_grad()
    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        drawn = self.drawn[-1]
        assert drawn.rewards is not None
        moved = (module.evaluate_actions(drawn).log_probs - self.before[-1]).sum(dim=1)
        lengths = drawn.response_mask.sum(dim=1)
        self.correlations.append(float(torch.corrcoef(torch.stack([drawn.rewards, moved / lengths]))[0, 1]))


def _callback(section: Mapping[str, Any], **changes: Any) -> Any:
    made = getattr(callbacks, section["class_path"])
    return made(**{**section["init_args"], **changes})


@pytest.mark.parametrize("method", METHODS)
def test_better_answers_become_more_likely(method: str, tiny_model: str, tasks: list[dict[str, object]]) -> None:
    """Only sizes are changed: 40 answers of 6 tokens, one step an iteration, and a rate that can be seen."""
    config = yaml.safe_load((CONFIGS / f"{method}.yaml").read_text())
    options = config["model"]["init_args"]
    filters = [_callback(config["filter"])] if "filter" in config else []
    module = CodePolicy(
        tiny_model,
        Blanks(),
        num_samples=options["num_samples"],
        max_new_tokens=6,
        critic=options["critic"],
        policy_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        schedule="constant",
        warmup_ratio=0.0,
        max_iterations=3,
    )
    watch, batch = Watch(), 40 // module.num_samples
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[watch, *filters, _callback(config["update"], minibatch_size=None)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(tasks[:batch], batch_size=batch, collate_fn=list))  # type: ignore[arg-type]
    assert len(watch.correlations) == 3
    # The best alone, compared with other prompts' best, say little of which answer to a prompt is better.
    assert sum(watch.correlations) / 3 > (0.1 if method == "pf_ppo_bon" else 0.4), watch.correlations
