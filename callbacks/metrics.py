"""What people look at while a policy trains."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Trainer
from torch import Tensor

from ..functional import kl_divergence, masked_mean
from ..modules.policy import PolicyCallback, PolicyModule
from ..rollout import Rollout


class RolloutMetrics(PolicyCallback):
    """Log every iteration's rewards, lengths, KL and the update's statistics, under stable names.

    Listed before a filter it reports all rows (the command line does that); listed after it, the kept ones.
    """

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        """Log what was sampled."""
        lengths = rollout.response_mask.sum(dim=1).float()
        metrics: dict[str, Tensor] = {"rollout/length_mean": lengths.mean(), "rollout/length_max": lengths.max()}
        if rollout.rewards is not None:
            rewards = rollout.rewards.detach().float()
            metrics |= {
                "rollout/reward_std": rewards.std(correction=0),
                "rollout/reward_min": rewards.min(),
                "rollout/reward_max": rewards.max(),
            }
            module.log("rollout/reward_mean", rewards.mean(), prog_bar=True, sync_dist=True)
        if rollout.truncated is not None:
            metrics["rollout/truncated_rate"] = rollout.truncated.float().mean()
        module.log_dict(metrics, sync_dist=True)
        return rollout

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        """Log what was learned from it."""
        module.log_dict(dict(stats), sync_dist=True)
        if rollout.log_probs is not None and rollout.ref_log_probs is not None:
            kl = kl_divergence(rollout.log_probs.detach(), rollout.ref_log_probs, "k1")
            module.log("rollout/kl_per_token", masked_mean(kl, rollout.response_mask), sync_dist=True)
            sequence_kl = (kl * rollout.response_mask).sum(dim=1).mean()
            module.log("rollout/kl", sequence_kl, prog_bar=True, sync_dist=True)
