"""A small policy whose drawn tokens are fixed, so that whole runs can be compared number by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tamis.callbacks import (
    Filtration,
    ImitationUpdate,
    PolicyCallback,
    PPOUpdate,
    PreferenceUpdate,
    ReinforceUpdate,
)
from tamis.functional import LossAggregation
from tamis.modules import ActionEvaluation, PolicyModule
from tamis.rollout import Rollout

ROWS, STEPS, TOKENS, WIDTH = 16, 7, 5, 3
N = 4


class Tokens(PolicyModule):
    """Draws tokens from features of each step; what it once drew is fixed, so that runs can be compared."""

    num_samples = N

    def __init__(self, max_iterations: int = 1, critic: bool = True) -> None:
        super().__init__(max_iterations)
        self.with_critic = critic
        generator = torch.Generator().manual_seed(0)
        self.policy, self.critic = nn.Linear(WIDTH, TOKENS), nn.Linear(WIDTH, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.critic.requires_grad_(critic)
        self.start = nn.Linear(WIDTH, TOKENS).requires_grad_(False)
        self.start.load_state_dict(self.policy.state_dict())
        nn.init.normal_(self.start.bias, generator=generator)
        features = torch.randn(ROWS, STEPS, WIDTH, generator=generator)
        # Every other group is short, and the others long: of two ranks' means the mean is far from that of all rows.
        lengths = torch.tensor([1, 2, 1, 2, 6, 7, 5, 7, 1, 3, 1, 2, 6, 7, 7, 5])
        self.drawn = Rollout(
            group_ids=torch.arange(ROWS) // N,
            actions=torch.randint(TOKENS, (ROWS, STEPS), generator=generator),
            response_mask=torch.arange(STEPS) < lengths.unsqueeze(1),
            rewards=torch.randn(ROWS, generator=generator),
            truncated=lengths == 7,
            observations={"features": features},
        )
        self.passes: list[int] = []

    def networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"policy": self.policy}
        return networks | {"critic": self.critic} if self.with_critic else networks

    def act(self, batch: Tensor) -> Rollout:
        return self.drawn.select((batch.long() * N + torch.arange(N)).flatten())

    def reward(self, rollout: Rollout) -> Rollout:
        return rollout

    @torch.no_grad()
    def complete(self, rollout: Rollout) -> Rollout:
        evaluation = self.evaluate_actions(rollout)
        self.passes.clear()
        ref = _log_probs(self.start, rollout)
        return rollout.replace(log_probs=evaluation.log_probs, values=evaluation.values, ref_log_probs=ref)

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        self.passes.append(len(rollout))
        log_softmax = torch.log_softmax(self.policy(rollout.observations["features"]), -1)
        entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        values = self.critic(rollout.observations["features"]).squeeze(-1)
        return ActionEvaluation(_log_probs(self.policy, rollout), entropy, values)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(network.parameters(), lr=1.0) for network in self.networks().values()]


def _log_probs(policy: nn.Module, rollout: Rollout) -> Tensor:
    log_softmax = torch.log_softmax(policy(rollout.observations["features"]), -1)
    return log_softmax.gather(-1, rollout.actions.unsqueeze(-1)).squeeze(-1)


class Stats(PolicyCallback):
    """Keeps the statistics of every update."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Tensor]] = []

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        self.seen.append(stats)


#: Every term of the losses at once, and every aggregation.
UPDATES: dict[str, Any] = {
    **{
        f"ppo_{how}": lambda how=how, **sizes: PPOUpdate(
            loss_aggregation=how, entropy_coef=0.1, kl_coef=0.3, kl_estimator="k2", kl_place="loss", **sizes
        )
        for how in get_args(LossAggregation)
    },
    **{
        f"ppo_mask_{how}": lambda how=how, **sizes: PPOUpdate(loss_aggregation=how, truncated="mask", **sizes)
        for how in get_args(LossAggregation)
    },
    **{
        f"ppo_marked_{how}": lambda how=how, **sizes: PPOUpdate(
            loss_aggregation=how, critic_rows="all", whiten_over="all", entropy_coef=0.1, **sizes
        )
        for how in get_args(LossAggregation)
    },
    **{
        f"reinforce_{how}": lambda how=how, **sizes: ReinforceUpdate(loss_aggregation=how, entropy_coef=0.1, **sizes)
        for how in get_args(LossAggregation)
    },
    **{
        f"imitation_{how}": lambda how=how, **sizes: ImitationUpdate(loss_aggregation=how, **sizes)
        for how in get_args(LossAggregation)
    },
    **{
        f"bond_{how}": lambda how=how, **sizes: ImitationUpdate(0.7, 0.1, loss_aggregation=how, **sizes)
        for how in get_args(LossAggregation)
    },
    "preference_dpo": lambda **sizes: PreferenceUpdate("dpo", label_smoothing=0.1, **sizes),
    "preference_ipo": lambda **sizes: PreferenceUpdate("ipo", **sizes),
}


def fit(module: Tokens, *callbacks: Any, processes: int = 1) -> Trainer:
    """Train with no side effects on disk."""
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    prompts = torch.arange(ROWS // N).unsqueeze(1)[trainer.global_rank :: processes]
    trainer.fit(module, DataLoader(prompts, batch_size=len(prompts)))  # type: ignore[arg-type]
    return trainer


def learn(update: str, processes: int = 1, **sizes: int) -> dict[str, Tensor]:
    """Weights after one iteration, and its statistics."""
    module, stats = Tokens(critic=update.startswith("ppo")), Stats()
    if "marked" in update:
        module.drawn = module.drawn.replace(kept=torch.tensor([2.0, 0.0, 1.0, 0.0]).repeat(ROWS // N))
    filters = [Filtration("best_worst", keep=2)] if update.startswith(("imitation", "bond", "preference")) else []
    fit(module, *filters, UPDATES[update](max_grad_norm=None, **sizes), stats, processes=processes)
    networks = {f"{name}.{key}": v for name, net in module.networks().items() for key, v in net.state_dict().items()}
    return networks | dict(stats.seen[0])
