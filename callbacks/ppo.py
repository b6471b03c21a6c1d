"""Proximal policy optimisation as a callback."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..functional import (
    Denominators,
    KLEstimator,
    LossAggregation,
    adapt_kl_coef,
    aggregate_loss,
    gae,
    kl_divergence,
    masked_mean,
    masked_whiten,
    ppo_policy_loss,
    ppo_value_loss,
    shape_rewards,
)
from ..modules.policy import PolicyModule, PolicyUpdate, policy_generator
from ..processes import max_over_ranks, sum_over_ranks
from ..rollout import Rollout
from .minibatches import mean_stats, minibatches, step, whole_batch
from .plan import announce_plan, check_sizes, refuse_idle_critic, refuse_rows_alone
from .shaping import (
    KLPlace,
    Truncated,
    check_above_zero,
    check_discounts,
    check_kl,
    check_rows,
    check_truncation,
    leave_one_out_advantages,
    left_out,
    response_kl,
    rewards_of,
    step_kl,
    treat_truncated,
)
from .update_stats import advantage_stats

AdvantageEstimator = Literal["gae", "leave_one_out"]
Rows = Literal["kept", "all"]


class PPOUpdate(PolicyUpdate):
    """Learn by the clipped surrogate, with a critic and GAE or with a leave-one-out baseline.

    The reward of a step is the row's score at its last step minus ``kl_coef`` times the KL to the reference at every
    step (PF-PPO, algorithm 2). Policy and critic learn from the rows that filtration kept, whose advantages are
    whitened among themselves. ``critic_rows`` and ``whiten_over`` change that; either makes an iteration as dear as
    without filtration, because all rows are scored then.

    Args:
        epochs: passes over the kept rows of an iteration.
        minibatch_size: rows of each process an optimiser step; ``None`` takes one step an epoch on all rows. Half of it
            on two processes makes the minibatches of one.
        microbatch_size: rows a forward and backward pass, whose gradients add up to the minibatch's; ``None`` passes
            over all of it at once.
        clip_range: epsilon of the policy's clipping.
        value_clip_range: how far a value may move from its old one; ``None`` does not clip.
        value_coef: weight of the value loss beside the policy loss.
        entropy_coef: weight of the entropy bonus.
        kl_coef: beta, weight of the KL penalty; more than 0 needs a reference policy.
        kl_estimator: of that penalty; see `tamis.functional.kl_divergence`.
        kl_place: the penalty is part of the ``reward`` (as in the paper, with k1) or of the ``loss`` (with k2 or k3).
        kl_target: KL of a response, in nats, towards which ``kl_coef`` is adapted after every iteration (Ziegler et
            al. 2019); ``None`` keeps it fixed.
        gamma: discount of GAE.
        lam: lambda of GAE.
        advantage_estimator: ``gae`` needs a critic, ``leave_one_out`` at least two kept rows a group.
        whiten_advantages: bring the advantages to mean 0 and variance 1.
        whiten_over: the rows that have this mean and variance: those ``kept`` by filtration (whitening after it), or
            ``all`` that were sampled (before it).
        critic_rows: the rows that the critic learns from: those ``kept`` by filtration, or ``all``.
        loss_aggregation: mean over tokens, over sequences of token means, or over sequences of token sums.
        truncated: what to do with responses that were cut off at the longest length: ``keep`` takes their reward as it
            is, ``penalty`` subtracts ``truncation_penalty`` from it, ``bootstrap`` lets GAE go on from the critic's
            last value, ``mask`` leaves them out of every loss and out of whitening.
        truncation_penalty: of ``truncated: penalty``, in units of the reward.
        critic_warmup_iterations: iterations at the start in which only the critic learns.
        max_grad_norm: clip each network's gradient to this norm; ``None`` does not clip.
        seed: of the minibatches' order.
    """

    def __init__(
        self,
        epochs: int = 1,
        minibatch_size: int | None = None,
        microbatch_size: int | None = None,
        clip_range: float = 0.2,
        value_clip_range: float | None = 0.2,
        value_coef: float = 1.0,
        entropy_coef: float = 0.0,
        kl_coef: float = 0.01,
        kl_estimator: KLEstimator = "k1",
        kl_place: KLPlace = "reward",
        kl_target: float | None = None,
        gamma: float = 1.0,
        lam: float = 0.95,
        advantage_estimator: AdvantageEstimator = "gae",
        whiten_advantages: bool = True,
        whiten_over: Rows = "kept",
        critic_rows: Rows = "kept",
        loss_aggregation: LossAggregation = "seq_mean",
        truncated: Truncated = "keep",
        truncation_penalty: float = 1.0,
        critic_warmup_iterations: int = 0,
        max_grad_norm: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        if critic_warmup_iterations < 0:
            raise ValueError(f"critic_warmup_iterations must not be negative, got {critic_warmup_iterations}")
        check_sizes(minibatch_size, microbatch_size)
        clips = {"clip_range": clip_range, "value_clip_range": value_clip_range, "max_grad_norm": max_grad_norm}
        check_above_zero(clips)
        check_discounts(gamma, lam)
        check_truncation(truncated, truncation_penalty, get_args(Truncated))
        check_kl(kl_coef, kl_estimator, kl_place, kl_target)
        all_rows = check_rows(critic_rows, whiten_over, whiten_advantages)
        if advantage_estimator != "gae" and (truncated == "bootstrap" or critic_warmup_iterations or all_rows):
            raise ValueError(
                "truncated: bootstrap, critic_warmup_iterations, critic_rows: all and whiten_over: all need a critic: "
                "`--update.advantage_estimator=gae`"
            )
        self.epochs = epochs
        self.minibatch_size, self.microbatch_size = minibatch_size, microbatch_size
        self.clip_range, self.value_clip_range = clip_range, value_clip_range
        self.value_coef, self.entropy_coef = value_coef, entropy_coef
        self.kl_coef = self._began_at = kl_coef
        self.kl_estimator: KLEstimator = kl_estimator
        self.kl_place: KLPlace = kl_place
        self.kl_target = kl_target
        self.gamma, self.lam = gamma, lam
        self.advantage_estimator: AdvantageEstimator = advantage_estimator
        self.whiten_advantages, self.whiten_over, self.critic_rows = whiten_advantages, whiten_over, critic_rows
        self.loss_aggregation: LossAggregation = loss_aggregation
        self.truncated: Truncated = truncated
        self.truncation_penalty = truncation_penalty
        self.critic_warmup_iterations = critic_warmup_iterations
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self._warned = False

    @property
    def state_key(self) -> str:
        """A run has one update, and a resumed one goes on from its coefficient, whatever else was changed."""
        return "PPOUpdate"

    def state_dict(self) -> dict[str, Any]:
        """The KL coefficient, where it is adapted."""
        return {} if self.kl_target is None else {"kl_coef": self.kl_coef, "began_at": self._began_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved coefficient, unless it is fixed or today's options begin at another one."""
        if self.kl_target is not None and state_dict.get("began_at", self.kl_coef) == self.kl_coef:
            self.kl_coef = float(state_dict["kl_coef"])

    @property
    def needs_all_rows(self) -> bool:
        """Whether rows that filtration does not keep are used, too."""
        return "all" in (self.critic_rows, self.whiten_over)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check and print the sizes."""
        if self.advantage_estimator != "gae" and isinstance(pl_module, PolicyModule):
            refuse_idle_critic(trainer.world_size, pl_module)
            refuse_rows_alone(trainer, pl_module)
        announce_plan(trainer, pl_module, self.minibatch_size, self.microbatch_size, self.epochs)

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """Estimate advantages once, then take ``epochs`` passes of optimiser steps."""
        if rollout.log_probs is None:
            rollout = rollout.replace(log_probs=module.evaluate_actions(rollout).log_probs.detach())
        kl = None if self.kl_target is None else response_kl(rollout)
        rollout = self.estimate_advantages(rollout)
        hold = self._held_back(module)
        generator = policy_generator(module, "minibatches", self.seed)
        environment_loss = None if rollout.environment_loss is None else rollout.environment_loss.mean()
        steps: list[dict[str, Tensor]] = []
        for _ in range(self.epochs):
            for minibatch in minibatches(rollout, self.minibatch_size, generator):
                first = not steps
                rows = minibatch if first else minibatch.detach()
                losses = partial(self.loss, module, denominators=self._whole(rows), critic_only=bool(hold))
                # The environment learns once an iteration, in the first step; its graph is gone after that.
                stats = step(
                    module,
                    rows,
                    self.microbatch_size,
                    losses,
                    environment_loss=environment_loss if first else None,
                    max_grad_norm=self.max_grad_norm,
                    hold=hold,
                )
                steps.append(stats)
        return self._report(steps) | advantage_stats(rollout, self._critic_rows(rollout)) | self._adapt(kl)

    def estimate_advantages(self, rollout: Rollout) -> Rollout:
        """Fill ``advantages`` (and ``returns`` where there is a critic), with cut-off responses treated as asked.

        Raises:
            ValueError: if a reference, a critic or lengths are asked for that the module does not have.
        """
        acted = rollout.response_mask
        rollout = treat_truncated(rollout, self.truncated, self.truncation_penalty)
        mask = rollout.response_mask
        kl = step_kl(rollout, self.kl_coef, self.kl_estimator)
        # Rows that are left out of the loss keep a score, with which the other rows of their group are compared.
        shaped = shape_rewards(rewards_of(rollout), kl if self.kl_place == "reward" else None, acted, self.kl_coef)
        returns = None
        if self.advantage_estimator == "gae":
            if rollout.values is None:
                raise ValueError(
                    "advantage_estimator: gae needs a critic, and this policy has none; "
                    "set `--update.advantage_estimator=leave_one_out`"
                )
            cut_off = rollout.truncated if self.truncated == "bootstrap" else None
            advantages, returns = gae(shaped, rollout.values, mask, self.gamma, self.lam, cut_off)
        else:
            advantages = leave_one_out_advantages(rollout, shaped.sum(dim=1))
            advantages = torch.where(mask, advantages.unsqueeze(1), 0.0)
        if self.whiten_advantages:
            weights = rollout.kept if self.whiten_over == "kept" else None
            advantages = masked_whiten(advantages, mask, total=sum_over_ranks, weights=weights)
        return rollout.replace(advantages=advantages, returns=returns)

    def loss(
        self,
        module: PolicyModule,
        minibatch: Rollout,
        denominators: tuple[Denominators, Denominators] | None = None,
        critic_only: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy loss, value loss, entropy bonus and KL of a minibatch (or a part of one), and what to report of them.

        Args:
            module: evaluates the actions.
            minibatch: rows with advantages.
            denominators: of the whole minibatch, for the policy's terms and for the critic's, where these rows are a
                part of it.
            critic_only: leave the policy's terms out of the loss.
        """
        evaluation = module.evaluate_actions(minibatch)
        mask, advantages, old_log_probs = minibatch.response_mask, minibatch.advantages, minibatch.log_probs
        if advantages is None or old_log_probs is None:
            raise ValueError("PPO needs advantages and old log-probabilities; call estimate_advantages first")
        how, kept = self.loss_aggregation, minibatch.kept
        whole, critic_whole = denominators or self._whole(minibatch)
        loss, ppo = ppo_policy_loss(
            evaluation.log_probs, old_log_probs.detach(), advantages, mask, self.clip_range, how, whole, kept
        )
        entropy = masked_mean(evaluation.entropy, mask, whole.steps, kept)
        stats = {f"update/{name}": value for name, value in ppo._asdict().items()}
        stats |= {"update/policy_loss": loss.detach(), "update/entropy": entropy.detach()}
        loss = loss - self.entropy_coef * entropy
        if self.kl_place == "loss" and minibatch.ref_log_probs is not None:
            kl = kl_divergence(evaluation.log_probs, minibatch.ref_log_probs, self.kl_estimator)
            kl_loss = aggregate_loss(kl, mask, how, whole, kept)
            stats["update/kl_loss"] = kl_loss.detach()
            loss = loss + self.kl_coef * kl_loss
        if critic_only:
            # Ranks wait for a gradient of every parameter: of the policy's, which do not step, too.
            loss = 0.0 * loss if torch.distributed.is_initialized() else loss.new_zeros(())
        if evaluation.values is not None and minibatch.values is not None and minibatch.returns is not None:
            old_values, returns, clip = minibatch.values, minibatch.returns, self.value_clip_range
            weights = self._critic_rows(minibatch)
            value_loss = ppo_value_loss(evaluation.values, old_values, returns, mask, clip, how, critic_whole, weights)
            stats["update/value_loss"] = value_loss.detach()
            loss = loss + self.value_coef * value_loss
        return loss, stats

    def _critic_rows(self, rollout: Rollout) -> Tensor | None:
        """``[B]`` how often each row counts for the critic; ``None`` is once each."""
        return rollout.kept if self.critic_rows == "kept" else None

    def _whole(self, minibatch: Rollout) -> tuple[Denominators, Denominators]:
        """What the policy's and the critic's terms of a minibatch are divided by."""
        absent = left_out(minibatch, self.truncated)
        policy = whole_batch(minibatch, absent, minibatch.kept)
        if self.critic_rows == "kept" or minibatch.kept is None:
            return policy, policy
        return policy, whole_batch(minibatch, absent)

    def _held_back(self, module: PolicyModule) -> frozenset[str]:
        """The networks that do not step while the critic warms up."""
        if module.iteration >= self.critic_warmup_iterations:
            return frozenset()
        return frozenset(module.networks()) - {"critic"} - module.environment_networks

    def _report(self, steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Means over the steps; and the first step's ratio, which only rounding may move away from 1."""
        error = max_over_ranks(steps[0]["update/ratio_error_max"])
        if not self._warned and float(error) > 1e-2:
            self._warned = True
            rank_zero_warn(
                f"before the first step a ratio of PPO is off 1 by {float(error):.3g}: the policy is not scored now as "
                "it was when it acted (dropout, another precision, batch statistics or temperature)"
            )
        stats = mean_stats([{k: v for k, v in one.items() if k != "update/ratio_error_max"} for one in steps])
        largest = {"update/ratio_max": max_over_ranks(stats["update/ratio_max"])}
        return stats | largest | {"update/ratio_error_first_minibatch": error}

    def _adapt(self, kl: float | None) -> dict[str, Tensor]:
        """Report the coefficient of this iteration and move it for the next one."""
        if kl is None or self.kl_target is None:
            return {}
        used = torch.tensor(self.kl_coef)
        if math.isfinite(kl):  # one iteration's fault would stay in the coefficient for good
            self.kl_coef = adapt_kl_coef(self.kl_coef, kl, self.kl_target)
        return {"update/kl_coef": used}
