"""REINFORCE as a callback; with the leave-one-out baseline it is RLOO."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional import (
    Denominators,
    KLEstimator,
    LossAggregation,
    masked_mean,
    reinforce_loss,
    scale_by_group_std,
    shape_rewards,
)
from ..modules.policy import PolicyModule, PolicyUpdate, policy_generator
from ..processes import mean_over_ranks
from ..rollout import Rollout
from .minibatches import Losses, minibatches, one_pass, whole_batch
from .plan import announce_plan, check_sizes, refuse_idle_critic, refuse_rows_alone
from .shaping import (
    check_above_zero,
    check_truncation,
    leave_one_out_advantages,
    left_out,
    rewards_of,
    step_kl,
    treat_truncated,
)

Baseline = Literal["leave_one_out", "group_mean", "running_mean", "none"]
TruncatedInReinforce = Literal["keep", "penalty", "mask"]


class ReinforceUpdate(PolicyUpdate):
    """Learn by ``-(reward - baseline) * log-probability``, one pass over the kept rows.

    Args:
        baseline: ``leave_one_out`` (mean of the group's other rows, unbiased), ``group_mean`` (mean of all of them),
            ``running_mean`` (average over past iterations) or ``none``.
        momentum: of the running mean, in [0, 1).
        kl_coef: weight of the KL to the reference in the reward; more than 0 needs a reference policy.
        kl_estimator: of that penalty.
        entropy_coef: weight of the entropy bonus.
        loss_aggregation: ``seq_sum`` is the joint log-probability; ``seq_mean`` divides it by the row's steps.
        minibatch_size: rows an optimiser step; ``None`` takes one step on all rows, the exact policy gradient.
        microbatch_size: rows a forward and backward pass, whose gradients add up to the minibatch's; ``None`` passes
            over all of it at once.
        truncated: what to do with responses that were cut off at the longest length: ``keep`` takes their reward as it
            is, ``penalty`` subtracts ``truncation_penalty`` from it, ``mask`` leaves them out of the loss (and in the
            baseline, which the other responses are compared with).
        truncation_penalty: of ``truncated: penalty``, in units of the reward.
        max_grad_norm: clip each network's gradient to this norm; ``None`` does not clip.
        seed: of the minibatches' order.
        scale_by_std: divide by the standard deviation of the group's rewards; with ``group_mean`` these are GRPO's
            advantages. In one step on all rows its ratio is 1 and clips nothing, so that the step is GRPO's, too.
    """

    def __init__(
        self,
        baseline: Baseline = "leave_one_out",
        momentum: float = 0.9,
        kl_coef: float = 0.0,
        kl_estimator: KLEstimator = "k1",
        entropy_coef: float = 0.0,
        loss_aggregation: LossAggregation = "seq_mean",
        minibatch_size: int | None = None,
        microbatch_size: int | None = None,
        truncated: TruncatedInReinforce = "keep",
        truncation_penalty: float = 1.0,
        max_grad_norm: float | None = None,
        seed: int = 0,
        scale_by_std: bool = False,
    ) -> None:
        if scale_by_std and baseline not in ("leave_one_out", "group_mean"):
            raise ValueError(
                f"scale_by_std divides by the spread of a group, and baseline={baseline} knows no groups; "
                "take group_mean (GRPO) or leave_one_out"
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        check_sizes(minibatch_size, microbatch_size)
        check_above_zero({"max_grad_norm": max_grad_norm})
        check_truncation(truncated, truncation_penalty, get_args(TruncatedInReinforce))
        self.baseline: Baseline = baseline
        self.scale_by_std = scale_by_std
        self.momentum = momentum
        self.kl_coef = kl_coef
        self.kl_estimator: KLEstimator = kl_estimator
        self.entropy_coef = entropy_coef
        self.loss_aggregation: LossAggregation = loss_aggregation
        self.minibatch_size, self.microbatch_size = minibatch_size, microbatch_size
        self.truncated: TruncatedInReinforce = truncated
        self.truncation_penalty = truncation_penalty
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self._running_mean: float | None = None

    @property
    def state_key(self) -> str:
        """Two instances with different baselines keep their averages apart."""
        return self._generate_state_key(baseline=self.baseline)

    def state_dict(self) -> dict[str, Any]:
        """The running mean of the rewards."""
        return {"running_mean": self._running_mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved running mean."""
        self._running_mean = state_dict["running_mean"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check and print the sizes."""
        if isinstance(pl_module, PolicyModule):
            refuse_idle_critic(trainer.world_size, pl_module)
        if self.baseline == "leave_one_out":
            refuse_rows_alone(trainer, pl_module)
        announce_plan(trainer, pl_module, self.minibatch_size, self.microbatch_size, epochs=1)

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """One pass of optimiser steps over the kept rows."""
        rollout = rollout.replace(advantages=self.estimate_advantages(rollout))
        rollout = treat_truncated(rollout, self.truncated, self.truncation_penalty)
        batches = minibatches(rollout, self.minibatch_size, policy_generator(module, "minibatches", self.seed))
        losses, environment = partial(self._losses, module), rollout.environment_loss
        return one_pass(module, batches, self.microbatch_size, losses, environment, self.max_grad_norm)

    def _losses(self, module: PolicyModule, rows: Rollout) -> Losses:
        """Of a minibatch's parts."""
        return partial(self.loss, module, denominators=whole_batch(rows, left_out(rows, self.truncated)))

    def estimate_advantages(self, rollout: Rollout) -> Tensor:
        """``[B]`` reward (less the KL penalty) minus the baseline.

        Raises:
            ValueError: without rewards, or for a leave-one-out baseline with one row a group.
        """
        treated = treat_truncated(rollout, self.truncated, self.truncation_penalty)
        kl = step_kl(rollout, self.kl_coef, self.kl_estimator)
        rewards = shape_rewards(rewards_of(treated), kl, rollout.response_mask, self.kl_coef).sum(dim=1)
        if self.baseline in ("leave_one_out", "group_mean"):
            return self._group_advantages(rollout, rewards)
        if self.baseline == "running_mean":
            return rewards - self._update_running_mean(float(mean_over_ranks(rewards.mean())))
        return rewards

    def loss(
        self, module: PolicyModule, minibatch: Rollout, denominators: Denominators | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """REINFORCE loss and entropy bonus of a minibatch, or of a part of the one that the denominators belong to."""
        if minibatch.advantages is None:
            raise ValueError("REINFORCE needs advantages; call estimate_advantages first")
        evaluation = module.evaluate_actions(minibatch)
        mask = minibatch.response_mask
        loss = reinforce_loss(evaluation.log_probs, minibatch.advantages, mask, self.loss_aggregation, denominators)
        entropy = masked_mean(evaluation.entropy, mask, None if denominators is None else denominators.steps)
        stats = {"update/policy_loss": loss.detach(), "update/entropy": entropy.detach()}
        return loss - self.entropy_coef * entropy, stats

    def _group_advantages(self, rollout: Rollout, rewards: Tensor) -> Tensor:
        groups = rollout.groups()
        if self.baseline == "leave_one_out":
            advantages = leave_one_out_advantages(rollout, rewards)
        else:
            advantages = rewards.clone()
            advantages[groups] -= rewards[groups].mean(dim=1, keepdim=True)
        if self.scale_by_std:
            advantages[groups] = scale_by_group_std(advantages[groups], rewards[groups])
        return advantages

    def _update_running_mean(self, mean: float) -> float:
        """The mean before this iteration (this one's own at the start), then move it."""
        before = mean if self._running_mean is None else self._running_mean
        self._running_mean = self.momentum * before + (1 - self.momentum) * mean
        return before
