"""Learning by imitation of the best answers: RAFT, and with a policy gradient on their ranks beside it, BOND."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional import (
    Denominators,
    LossAggregation,
    aggregate_loss,
    log_quantiles,
    masked_mean,
    reinforce_loss,
)
from ..modules.policy import PolicyModule, PolicyUpdate, policy_generator
from ..rollout import Rollout
from .minibatches import Losses, minibatches, one_pass, whole_batch
from .plan import announce_plan, check_sizes, filtration_of, refuse_idle_critic
from .shaping import check_above_zero, leave_one_out_advantages, response_kls, rewards_of


class ImitationUpdate(PolicyUpdate):
    """Learn the rows that a filter keeps by heart: ``-log pi(y|x)``, one pass over them.

    With ``Filtration("best_of_n", keep=1)`` it is RAFT (Dong et al. 2023): fine-tuning on the best of N.

    With a ``backward_coef`` beside it, it is BOND (Sessa et al. 2024), which brings the policy to the distribution of
    the best of N: the imitation of the best is the forward KL to it, and ``backward_coef`` weighs the backward KL, a
    policy gradient on all N rows. Its reward is the log of a row's quantile in its group, less ``backward_kl_coef``
    times its KL to the reference; its baseline is the mean of the group's other rows. The anchor whose best of N is
    learned is the policy that drew the group, so it moves every iteration; the reference stays where it is.

    Args:
        backward_coef: weight of the backward KL; 0 is imitation alone, and the other rows are then not looked at.
        backward_kl_coef: a nat's price in that reward, 1 / (N - 1) in the paper; more than 0 needs a reference policy.
        loss_aggregation: ``token_mean`` as in supervised fine-tuning; ``seq_sum`` is the joint log-probability.
        minibatch_size: rows an optimiser step, of all N with ``backward_coef``; ``None`` takes one step on all rows.
        microbatch_size: rows a forward and backward pass, whose gradients add up to the minibatch's; ``None`` passes
            over all of it at once.
        max_grad_norm: clip each network's gradient to this norm; ``None`` does not clip.
        seed: of the minibatches' order.
    """

    def __init__(
        self,
        backward_coef: float = 0.0,
        backward_kl_coef: float = 0.0,
        loss_aggregation: LossAggregation = "token_mean",
        minibatch_size: int | None = None,
        microbatch_size: int | None = None,
        max_grad_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        if backward_coef < 0 or backward_kl_coef < 0:
            raise ValueError(f"coefficients must not be negative, got {backward_coef} and {backward_kl_coef}")
        if backward_kl_coef > 0 and backward_coef == 0:
            raise ValueError(
                f"backward_kl_coef={backward_kl_coef} is a part of the backward KL and does nothing without it; "
                "set backward_coef above 0 (BOND), or backward_kl_coef to 0 (RAFT)"
            )
        check_sizes(minibatch_size, microbatch_size)
        check_above_zero({"max_grad_norm": max_grad_norm})
        self.backward_coef, self.backward_kl_coef = backward_coef, backward_kl_coef
        self.loss_aggregation: LossAggregation = loss_aggregation
        self.minibatch_size, self.microbatch_size = minibatch_size, microbatch_size
        self.max_grad_norm = max_grad_norm
        self.seed = seed

    @property
    def needs_all_rows(self) -> bool:
        """The backward KL is about all rows, the forward one about those that are kept."""
        return self.backward_coef > 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check and print the sizes.

        Raises:
            ValueError: without a filter; the expected gradient of a policy's own samples is 0.
        """
        filtration = filtration_of(trainer)
        if filtration is None or filtration.strategy in ("none", "random"):
            raise ValueError(
                "ImitationUpdate learns the rows that a filter keeps, and here nothing chooses among them; add "
                "`--filter Filtration --filter.strategy best_of_n --filter.keep 1`"
            )
        if isinstance(pl_module, PolicyModule):
            refuse_idle_critic(trainer.world_size, pl_module)
        announce_plan(trainer, pl_module, self.minibatch_size, self.microbatch_size, epochs=1)

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """One pass of optimiser steps over the kept rows (over all rows for BOND)."""
        if self.backward_coef > 0:
            rollout = rollout.replace(advantages=self.estimate_advantages(rollout))
        batches = minibatches(rollout, self.minibatch_size, policy_generator(module, "minibatches", self.seed))
        losses, environment = partial(self._losses, module), rollout.environment_loss
        return one_pass(module, batches, self.microbatch_size, losses, environment, self.max_grad_norm)

    def _losses(self, module: PolicyModule, rows: Rollout) -> Losses:
        """Of a minibatch's parts."""
        return partial(self.loss, module, kept=whole_batch(rows, weights=rows.kept), drawn=whole_batch(rows))

    def estimate_advantages(self, rollout: Rollout) -> Tensor:
        """``[B]`` BOND's reward minus the mean of it over the group's other rows.

        Raises:
            ValueError: without rewards, with one row a group, or for a KL without a reference.
        """
        groups = rollout.groups()
        quantiles = torch.empty_like(rewards_of(rollout))
        quantiles[groups] = log_quantiles(rewards_of(rollout)[groups])
        if self.backward_kl_coef > 0:
            quantiles = quantiles - self.backward_kl_coef * response_kls(rollout, "backward_kl_coef")
        return leave_one_out_advantages(rollout, quantiles)

    def loss(
        self,
        module: PolicyModule,
        minibatch: Rollout,
        kept: Denominators | None = None,
        drawn: Denominators | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a minibatch, or of a part of the one that the denominators (of kept and of all rows) belong to."""
        evaluation = module.evaluate_actions(minibatch)
        mask = minibatch.response_mask
        loss = aggregate_loss(-evaluation.log_probs, mask, self.loss_aggregation, kept, minibatch.kept)
        entropy = masked_mean(evaluation.entropy, mask, None if drawn is None else drawn.steps)
        stats = {"update/imitation_loss": loss.detach(), "update/entropy": entropy.detach()}
        if self.backward_coef > 0:
            if minibatch.advantages is None:
                raise ValueError("the backward KL needs advantages; call estimate_advantages first")
            backward = reinforce_loss(evaluation.log_probs, minibatch.advantages, mask, self.loss_aggregation, drawn)
            stats["update/policy_loss"] = backward.detach()
            loss = loss + self.backward_coef * backward
        return loss, stats
