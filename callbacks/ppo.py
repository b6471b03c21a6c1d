"""Proximal policy optimisation as a callback."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from ..functional import (
    KLEstimator,
    LossAggregation,
    gae,
    kl_divergence,
    leave_one_out_baseline,
    masked_mean,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
    shape_rewards,
)
from ..modules.policy import PolicyModule, PolicyUpdate, policy_generator
from ..rollout import Rollout
from .minibatches import mean_stats, minibatches

AdvantageEstimator = Literal["gae", "leave_one_out"]


class PPOUpdate(PolicyUpdate):
    """Learn by the clipped surrogate, with a critic and GAE or with a leave-one-out baseline.

    The reward of a step is the row's score at its last step minus ``kl_coef`` times the KL to the reference at every
    step (PF-PPO, algorithm 2). Advantages are whitened over the rows that filtration kept.

    Args:
        epochs: passes over the kept rows of an iteration.
        minibatch_size: rows an optimiser step; ``None`` takes one step an epoch on all rows.
        clip_range: epsilon of the policy's clipping.
        value_clip_range: how far a value may move from its old one; ``None`` does not clip.
        value_coef: weight of the value loss beside the policy loss.
        entropy_coef: weight of the entropy bonus.
        kl_coef: beta, weight of the KL penalty in the reward; more than 0 needs a reference policy.
        kl_estimator: of that penalty.
        gamma: discount of GAE.
        lam: lambda of GAE.
        advantage_estimator: ``gae`` needs a critic, ``leave_one_out`` at least two kept rows a group.
        whiten_advantages: bring the advantages to mean 0 and variance 1.
        loss_aggregation: mean over tokens, over sequences of token means, or over sequences of token sums.
        max_grad_norm: clip each network's gradient to this norm; ``None`` does not clip.
        seed: of the minibatches' order.
    """

    def __init__(
        self,
        epochs: int = 1,
        minibatch_size: int | None = None,
        clip_range: float = 0.2,
        value_clip_range: float | None = 0.2,
        value_coef: float = 1.0,
        entropy_coef: float = 0.0,
        kl_coef: float = 0.01,
        kl_estimator: KLEstimator = "k1",
        gamma: float = 1.0,
        lam: float = 0.95,
        advantage_estimator: AdvantageEstimator = "gae",
        whiten_advantages: bool = True,
        loss_aggregation: LossAggregation = "seq_mean",
        max_grad_norm: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self.clip_range, self.value_clip_range = clip_range, value_clip_range
        self.value_coef, self.entropy_coef = value_coef, entropy_coef
        self.kl_coef = kl_coef
        self.kl_estimator: KLEstimator = kl_estimator
        self.gamma, self.lam = gamma, lam
        self.advantage_estimator: AdvantageEstimator = advantage_estimator
        self.whiten_advantages = whiten_advantages
        self.loss_aggregation: LossAggregation = loss_aggregation
        self.max_grad_norm = max_grad_norm
        self.seed = seed

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """Estimate advantages once, then take ``epochs`` passes of optimiser steps."""
        if rollout.log_probs is None:
            rollout = rollout.replace(log_probs=module.evaluate_actions(rollout).log_probs.detach())
        rollout = self.estimate_advantages(rollout)
        generator = policy_generator(module, "minibatches", self.seed)
        environment_loss = None if rollout.environment_loss is None else rollout.environment_loss.mean()
        steps: list[dict[str, Tensor]] = []
        for _ in range(self.epochs):
            for minibatch in minibatches(rollout, self.minibatch_size, generator):
                loss, stats = self.loss(module, minibatch if not steps else minibatch.detach())
                # The environment learns once an iteration, in the first step; its graph is gone after that.
                norms = module.optimize(loss, environment_loss if not steps else None, self.max_grad_norm)
                steps.append(stats | norms)
        return mean_stats(steps) | _advantage_stats(rollout)

    def estimate_advantages(self, rollout: Rollout) -> Rollout:
        """Fill ``advantages`` (and ``returns`` where there is a critic).

        Raises:
            ValueError: if a reference or a critic is asked for that the module does not have.
        """
        mask = rollout.response_mask
        shaped = shape_rewards(_rewards(rollout), step_kl(rollout, self.kl_coef, self.kl_estimator), mask, self.kl_coef)
        returns = None
        if self.advantage_estimator == "gae":
            if rollout.values is None:
                raise ValueError(
                    "advantage_estimator: gae needs a critic, and this policy has none; "
                    "set `--update.advantage_estimator=leave_one_out`"
                )
            advantages, returns = gae(shaped, rollout.values, mask, self.gamma, self.lam)
        else:
            advantages = leave_one_out_advantages(rollout, shaped.sum(dim=1)).unsqueeze(1).expand_as(shaped)
        if self.whiten_advantages:
            advantages = masked_whiten(advantages, mask)
        return rollout.replace(advantages=advantages, returns=returns)

    def loss(self, module: PolicyModule, minibatch: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy loss, value loss and entropy bonus of one minibatch, and what to report of them."""
        evaluation = module.evaluate_actions(minibatch)
        mask, advantages, old_log_probs = minibatch.response_mask, minibatch.advantages, minibatch.log_probs
        if advantages is None or old_log_probs is None:
            raise ValueError("PPO needs advantages and old log-probabilities; call estimate_advantages first")
        loss, ppo = ppo_policy_loss(
            evaluation.log_probs, old_log_probs.detach(), advantages, mask, self.clip_range, self.loss_aggregation
        )
        entropy = masked_mean(evaluation.entropy, mask)
        stats = {f"update/{name}": value for name, value in ppo._asdict().items()}
        stats |= {"update/policy_loss": loss.detach(), "update/entropy": entropy.detach()}
        loss = loss - self.entropy_coef * entropy
        if evaluation.values is not None and minibatch.values is not None and minibatch.returns is not None:
            value_loss = ppo_value_loss(
                evaluation.values,
                minibatch.values,
                minibatch.returns,
                mask,
                self.value_clip_range,
                self.loss_aggregation,
            )
            stats["update/value_loss"] = value_loss.detach()
            loss = loss + self.value_coef * value_loss
        return loss, stats


def step_kl(rollout: Rollout, kl_coef: float, estimator: KLEstimator) -> Tensor | None:
    """``[B, T]`` KL estimate of each step against the reference; ``None`` where nothing asks for it.

    Raises:
        ValueError: if a penalty is wanted and the rollout has no reference log-probabilities.
    """
    if rollout.ref_log_probs is None or rollout.log_probs is None:
        if kl_coef > 0:
            raise ValueError(
                f"kl_coef={kl_coef} needs a reference policy, and this module keeps none; set `--update.kl_coef=0`"
            )
        return None
    return kl_divergence(rollout.log_probs.detach(), rollout.ref_log_probs, estimator)


def leave_one_out_advantages(rollout: Rollout, rewards: Tensor) -> Tensor:
    """``[B]`` reward minus the mean reward of the other rows of the same group."""
    groups = rollout.groups()
    advantages = torch.empty_like(rewards)
    advantages[groups] = rewards[groups] - leave_one_out_baseline(rewards[groups])
    return advantages


def _rewards(rollout: Rollout) -> Tensor:
    if rollout.rewards is None:
        raise ValueError("an update needs rewards, and this rollout has none")
    return rollout.rewards.detach()


def _advantage_stats(rollout: Rollout) -> dict[str, Tensor]:
    """Explained variance of the critic: 1 - Var(returns - values) / Var(returns); NaN for constant returns."""
    if rollout.returns is None or rollout.values is None:
        return {}
    mask = rollout.response_mask
    spread = _variance(rollout.returns, mask)
    explained = 1 - _variance(rollout.returns - rollout.values, mask) / spread
    return {"update/explained_variance": torch.where(spread > 0, explained, torch.nan)}


def _variance(values: Tensor, mask: Tensor) -> Tensor:
    """Of the valid steps, without indexing by the mask, which would wait for the device."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)
