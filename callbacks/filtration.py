"""Policy filtration: only a rank-chosen few of each group's responses reach policy and critic."""

from __future__ import annotations

from typing import get_args

import torch
from lightning.pytorch import Trainer

from ..functional import SelectionMode, Strategy, select
from ..modules.policy import PolicyCallback, PolicyModule, PolicyUpdate, policy_generator
from ..rollout import Rollout


class Filtration(PolicyCallback):
    """Rank each group's responses by reward and keep ``keep`` of them (PF-PPO, section 4).

    Rows that do not pass cost generation and reward only: log-probabilities, values and gradients are computed for the
    kept rows alone. Ranks are taken inside a group, and every group keeps the same number, so that all ranks of a
    distributed run take the same steps. An update that asks for all rows (``critic_rows`` and ``whiten_over`` of
    `PPOUpdate`) gets them with the kept ones marked.

    Args:
        strategy: ``none``, ``random`` (the control), ``best_of_n``, ``best_random``, ``best_worst``, ``top``,
            ``top_random``, ``top_bottom`` or ``power``; see `tamis.functional.select`.
        keep: responses to keep of each group; ``none`` keeps all.
        mode: ``hard`` keeps different responses; ``sample`` draws from the strategy's weights with replacement.
        power: exponent k of ``power``.
        high: upper threshold of ``top``, ``top_random``, ``top_bottom``, in units of the reward.
        low: lower threshold of ``top_bottom``.
        seed: of the draws and of random tie-breaking.
    """

    def __init__(
        self,
        strategy: Strategy = "best_random",
        keep: int = 2,
        mode: SelectionMode = "hard",
        power: float = 1.0,
        high: float | None = None,
        low: float | None = None,
        seed: int = 0,
    ) -> None:
        if strategy not in get_args(Strategy):
            raise ValueError(f"unknown strategy {strategy!r}; choose one of {', '.join(get_args(Strategy))}")
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.strategy: Strategy = strategy
        self.keep = keep
        self.mode: SelectionMode = mode
        self.power, self.high, self.low = power, high, low
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: object, stage: str) -> None:
        """Refuse ``keep`` > N, and ranks among one, before any time is spent, where the module tells its N."""
        n = getattr(pl_module, "num_samples", None)
        if stage == "fit" and n == 1 and self.strategy not in ("none", "random"):
            raise ValueError(
                f"{self.strategy} compares the responses of a prompt, and num_samples=1 gives it nothing to compare; "
                "raise num_samples, or set the strategy to none"
            )
        if stage == "fit" and isinstance(n, int) and self.strategy != "none":
            # The same checks as in the loop, on a rollout of the run's shape.
            select(
                torch.arange(float(n)).unsqueeze(0),
                self.strategy,
                self.keep,
                power=self.power,
                high=self.high,
                low=self.low,
            )

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Keep the chosen rows."""
        if rollout.rewards is None:
            raise ValueError("Filtration ranks by reward, and this rollout has none")
        groups = rollout.groups()
        rewards = rollout.rewards.detach()[groups]
        generator = policy_generator(module, "filter", self.seed)
        columns = select(
            rewards, self.strategy, self.keep, self.mode, generator, power=self.power, high=self.high, low=self.low
        )
        kept = columns.numel()
        module.log_dict(
            {
                "filter/rows_in": float(len(rollout)),
                "filter/rows_kept": float(kept),
                "filter/rows_dropped": float(len(rollout) - kept),
                "filter/reward_all": rewards.mean(),
                "filter/reward_kept": rewards.gather(1, columns).mean(),
            },
            sync_dist=True,
        )
        rows = groups.gather(1, columns).flatten()
        if not needs_all_rows(trainer):
            return rollout.select(rows)
        counts = torch.zeros(len(rollout), device=rows.device)
        return rollout.replace(kept=counts.index_add(0, rows, torch.ones_like(counts[rows])))


def needs_all_rows(trainer: Trainer) -> bool:
    """Whether this run's update wants the rows that filtration does not keep, too."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, PolicyUpdate) and callback.needs_all_rows for callback in callbacks)
