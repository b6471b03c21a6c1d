"""Preference losses inside the loop: iterative DPO, on pairs that the policy itself has just drawn."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional import Denominators, dpo_loss, ipo_loss, response_log_ratios
from ..functional.preference import check_beta, check_label_smoothing
from ..modules.policy import PolicyModule, PolicyUpdate, policy_generator
from ..rollout import Rollout
from .minibatches import Losses, minibatches, one_pass, whole_batch
from .plan import announce_plan, check_sizes, refuse_idle_critic, refuse_other_than_pairs
from .shaping import check_above_zero, rewards_of

LoopPreferenceLoss = Literal["dpo", "ipo"]


class PreferenceUpdate(PolicyUpdate):
    """Prefer the better of each group's two kept rows to the worse, by the run's reward; one pass over the pairs.

    With ``Filtration("best_worst", keep=2)`` it is iterative DPO: every iteration draws new answers from the policy of
    the moment, labels the best and the worst of each prompt by reward and learns from these pairs. The reference stays
    the one of the run. Pairs of equal rewards say nothing and are left out.

    KTO is not offered here: its reference points are means over a batch, which parts of one do not have
    (`PreferenceOptimization` has it).

    Args:
        loss: ``dpo`` or ``ipo``.
        beta: how much a nat of difference from the reference counts.
        label_smoothing: share of wrong labels that DPO reckons with, in [0, 0.5).
        minibatch_size: rows an optimiser step, two a pair; ``None`` takes one step on all pairs.
        microbatch_size: rows a forward and backward pass, whose gradients add up to the minibatch's; ``None`` passes
            over all of it at once.
        max_grad_norm: clip each network's gradient to this norm; ``None`` does not clip.
        seed: of the minibatches' order.
    """

    def __init__(
        self,
        loss: LoopPreferenceLoss = "dpo",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        minibatch_size: int | None = None,
        microbatch_size: int | None = None,
        max_grad_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        if loss not in get_args(LoopPreferenceLoss):
            raise ValueError(f"loss must be dpo or ipo, got {loss!r}")
        check_beta(beta)
        check_label_smoothing(label_smoothing)
        if label_smoothing > 0 and loss != "dpo":
            raise ValueError(f"label_smoothing belongs to dpo, and {loss} has none; set it to 0")
        check_sizes(minibatch_size, microbatch_size)
        check_above_zero({"max_grad_norm": max_grad_norm})
        for name, size in (("minibatch_size", minibatch_size), ("microbatch_size", microbatch_size)):
            if size is not None and size % 2:
                raise ValueError(f"{name} counts rows, two a pair, and must be even, got {size}")
        self.preference_loss: LoopPreferenceLoss = loss
        self.beta, self.label_smoothing = beta, label_smoothing
        self.minibatch_size, self.microbatch_size = minibatch_size, microbatch_size
        self.max_grad_norm = max_grad_norm
        self.seed = seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check and print the sizes."""
        refuse_other_than_pairs(trainer, pl_module)
        if isinstance(pl_module, PolicyModule):
            refuse_idle_critic(trainer.world_size, pl_module)
        announce_plan(trainer, pl_module, self.minibatch_size, self.microbatch_size, epochs=1)

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """One pass of optimiser steps over the pairs."""
        generator = policy_generator(module, "minibatches", self.seed)
        batches = minibatches(self.pairs(rollout), self.minibatch_size, generator, together=2)
        losses, environment = partial(self._losses, module), rollout.environment_loss
        return one_pass(module, batches, self.microbatch_size, losses, environment, self.max_grad_norm)

    def _losses(self, module: PolicyModule, rows: Rollout) -> Losses:
        """Of a minibatch's parts."""
        return partial(self.loss, module, denominators=whole_batch(rows, weights=rows.kept))

    def pairs(self, rollout: Rollout) -> Rollout:
        """The rows as chosen, rejected, chosen, rejected, …; ``kept`` is 0 for the two of a pair of equal rewards.

        Raises:
            ValueError: for groups of other than two rows, or without a reference.
        """
        groups = rollout.groups()
        if groups.shape[1] != 2:
            raise ValueError(
                f"a preference is about two rows of a group, got {groups.shape[1]}; "
                'put Filtration("best_worst", keep=2) before this update'
            )
        if rollout.ref_log_probs is None:
            raise ValueError("a preference loss is measured from a reference policy, and this module keeps none")
        rewards = rewards_of(rollout)[groups]
        rows = groups.gather(1, rewards.argsort(dim=1, descending=True, stable=True))
        decided = (rewards[:, 0] != rewards[:, 1]).to(rewards.dtype).repeat_interleave(2)
        return rollout.select(rows.flatten()).replace(kept=decided)

    def loss(
        self, module: PolicyModule, minibatch: Rollout, denominators: Denominators | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a minibatch of pairs, or of a part of the one that the denominators belong to."""
        if minibatch.ref_log_probs is None or minibatch.kept is None:
            raise ValueError("a preference loss needs rows in pairs; call pairs first")
        evaluation = module.evaluate_actions(minibatch)
        ratios = response_log_ratios(evaluation.log_probs, minibatch.ref_log_probs, minibatch.response_mask)
        chosen, rejected, decided = ratios[0::2], ratios[1::2], minibatch.kept[0::2]
        count = decided.sum().clamp(min=1) if denominators is None else denominators.rows / 2

        def mean(values: Tensor) -> Tensor:
            return (values * decided).sum() / count

        if self.preference_loss == "dpo":
            loss = mean(dpo_loss(chosen, rejected, self.beta, self.label_smoothing))
        else:
            loss = mean(ipo_loss(chosen, rejected, self.beta))
        with torch.no_grad():
            stats = {
                "update/preference_loss": loss.detach(),
                "update/preference_accuracy": mean((chosen > rejected).to(ratios.dtype)),
                "update/implicit_reward_chosen": self.beta * mean(chosen.detach()),
                "update/implicit_reward_rejected": self.beta * mean(rejected.detach()),
            }
        return loss, stats
