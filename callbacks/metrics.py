"""What people look at while a policy trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from ..functional import kl_divergence
from ..modules.policy import PolicyCallback, PolicyModule, PolicyUpdate
from ..modules.reward_failures import failures
from ..rollout import Rollout


class RolloutMetrics(PolicyCallback):
    """Log every iteration's rewards, lengths, KL and the update's statistics, under stable names.

    ``docs/metrics.md`` says what each means and where it should lie. Numbers are of all ranks together. Listed before a
    filter it reports all rows (the command line does that); listed after it, the kept ones.
    """

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Log what was sampled."""
        lengths = rollout.response_mask.sum(dim=1).float()
        module.log("rollout/length_mean", _mean(trainer, lengths))
        module.log("rollout/length_max", lengths.max(), sync_dist=True, reduce_fx="max")
        if rollout.rewards is not None:
            self._log_rewards(trainer, module, rollout.rewards.detach().float())
            if rollout.records:
                lost = float(failures(rollout.records))
                module.log("rollout/reward_failures", lost, sync_dist=True, reduce_fx="sum")
        if rollout.truncated is not None:
            cut_off = _mean(trainer, rollout.truncated.float())
            module.log_dict({"rollout/truncated_rate": cut_off, "rollout/eos_rate": 1 - cut_off})
        return rollout

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        """Log what was learned from it."""
        for name, value in stats.items():
            module.log(name, value, sync_dist=True, reduce_fx="max" if name.endswith("_max") else "mean")
        for name, optimizer in zip(module.networks(), trainer.optimizers, strict=True):
            module.log(f"update/lr_{name}", float(optimizer.param_groups[0]["lr"]))
        log_probs, ref_log_probs = rollout.log_probs, rollout.ref_log_probs
        if log_probs is not None and ref_log_probs is not None:
            self._log_kl(trainer, module, rollout, stats, (log_probs.detach(), ref_log_probs))

    def _log_rewards(self, trainer: Trainer, module: PolicyModule, rewards: Tensor) -> None:
        """Moments and, in TensorBoard, the histogram of the scores, before any KL penalty."""
        mean = _mean(trainer, rewards)
        module.log("rollout/reward_mean", mean, prog_bar=True)
        # The squares about the mean of all ranks: a mean of the ranks' own deviations would miss how they differ.
        module.log("rollout/reward_std", _mean(trainer, (rewards - mean) ** 2).sqrt())
        module.log("rollout/reward_min", rewards.min(), sync_dist=True, reduce_fx="min")
        module.log("rollout/reward_max", rewards.max(), sync_dist=True, reduce_fx="max")
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.is_global_zero and module.iteration % max(trainer.log_every_n_steps, 1) == 0:  # type: ignore[attr-defined]
            for board in boards:
                board.experiment.add_histogram("rollout/reward", rewards.cpu(), module.iteration + 1)

    def _log_kl(
        self,
        trainer: Trainer,
        module: PolicyModule,
        rollout: Rollout,
        stats: Mapping[str, Tensor],
        log_probs: tuple[Tensor, Tensor],
    ) -> None:
        """KL to the reference by k1, whose mean over samples is the KL itself, and the rewards less its penalty."""
        mask = rollout.response_mask
        kl = (kl_divergence(*log_probs, "k1") * mask).sum(dim=1)
        whole = _mean(trainer, kl)
        module.log("rollout/kl", whole, prog_bar=True)
        module.log("rollout/kl_per_token", whole / _mean(trainer, mask.sum(dim=1).float()).clamp(min=1e-8))
        update = _update(trainer)
        coef = stats.get("update/kl_coef", getattr(update, "kl_coef", 0.0))
        if rollout.rewards is not None and getattr(update, "kl_place", "reward") == "reward":
            penalty = kl_divergence(*log_probs, getattr(update, "kl_estimator", "k1"))
            shaped = rollout.rewards.detach().float() - coef * (penalty * mask).sum(dim=1)
            module.log("rollout/reward_after_kl", _mean(trainer, shaped))


def _mean(trainer: Trainer, values: Tensor) -> Tensor:
    """The mean over the rows of all ranks, which may hold different numbers of them."""
    sums = torch.stack([values.sum(), values.new_tensor(float(len(values)))])
    if trainer.world_size > 1:
        sums = torch.as_tensor(trainer.strategy.reduce(sums, reduce_op="sum"))
    return sums[0] / sums[1].clamp(min=1)


def _update(trainer: Trainer) -> PolicyUpdate | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, PolicyUpdate)), None)
