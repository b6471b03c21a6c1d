"""How many rows an iteration, an optimiser step and a pass have: checked before training, and printed once."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..modules.policy import PolicyModule
from .filtration import Filtration, needs_all_rows


def announce_plan(
    trainer: Trainer, module: LightningModule, minibatch_size: int | None, microbatch_size: int | None, epochs: int
) -> None:
    """Refuse sizes that do not divide, and print the others with the optimiser steps that they mean.

    Sizes are of one process. What the data or the module do not tell (a batch size, N) is checked in the first
    iteration instead.

    Raises:
        ValueError: if the kept rows are no multiple of ``minibatch_size``, or that none of ``microbatch_size``.
    """
    rows = rows_an_iteration(trainer, module)
    kept = None if rows is None else rows[1]
    steps = None
    if minibatch_size is not None and kept is not None:
        if kept % minibatch_size:
            raise ValueError(
                f"{kept} kept rows an iteration cannot be cut into minibatches of {minibatch_size}; choose a "
                f"minibatch_size that divides {kept}, another batch size, or null for one step on all rows"
            )
        steps = epochs * kept // minibatch_size
    minibatch = minibatch_size or kept
    if microbatch_size is not None and minibatch is not None and minibatch % microbatch_size:
        raise ValueError(
            f"a minibatch of {minibatch} rows cannot be cut into microbatches of {microbatch_size}; choose a "
            f"microbatch_size that divides {minibatch}, or null for one pass over all of it"
        )
    table = {
        "rollout_batch": "unknown" if rows is None else f"{rows[0]} rows sampled, {rows[1]} kept",
        "minibatch": minibatch or "all kept rows",
        "microbatch": microbatch_size or "the minibatch",
        "ppo_epochs": epochs,
        "optimiser steps an iteration": epochs if minibatch_size is None else steps or "unknown",
    }
    lines = "\n".join(f"  {name:<28} {value}" for name, value in table.items())
    rank_zero_info(f"The update's sizes, of each of {trainer.world_size} process(es):\n{lines}")


def refuse_idle_critic(world_size: int, module: PolicyModule) -> None:
    """Several processes wait for a gradient of every trained network, and a critic that no loss reads has none.

    Raises:
        ValueError: naming the option, instead of ranks that drift apart and then stop.
    """
    if world_size > 1 and "critic" in module.networks():
        raise ValueError(
            f"this update trains no critic, and {type(module).__name__} has one, which {world_size} processes would "
            "wait for; set `--model.critic=none`"
        )


def check_sizes(minibatch_size: int | None, microbatch_size: int | None) -> None:
    """What can be said without data: sizes are positive, and a minibatch is a whole number of microbatches.

    Raises:
        ValueError: otherwise.
    """
    for name, size in (("minibatch_size", minibatch_size), ("microbatch_size", microbatch_size)):
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1 or null, got {size}")
    if minibatch_size is not None and microbatch_size is not None and minibatch_size % microbatch_size:
        raise ValueError(
            f"minibatch_size={minibatch_size} is no multiple of microbatch_size={microbatch_size}; "
            f"choose a microbatch_size that divides {minibatch_size}"
        )


def rows_an_iteration(trainer: Trainer, module: LightningModule) -> tuple[int, int] | None:
    """Rows that a full batch samples and those that reach the update, where data and module tell."""
    batch, n = getattr(trainer.train_dataloader, "batch_size", None), getattr(module, "num_samples", None)
    if not (isinstance(batch, int) and isinstance(n, int)):
        return None
    return batch * n, batch * (n if needs_all_rows(trainer) else _kept_of_a_group(trainer, n))


def refuse_rows_alone(trainer: Trainer, module: LightningModule) -> None:
    """A leave-one-out baseline is the mean of the group's other rows: there must be some.

    Raises:
        ValueError: naming the sizes, where the module tells its N.
    """
    n = getattr(module, "num_samples", None)
    if isinstance(n, int) and _kept_of_a_group(trainer, n) < 2:
        raise ValueError(
            f"a leave-one-out baseline compares a row with the others of its group, and of num_samples={n} responses a "
            f"prompt {_kept_of_a_group(trainer, n)} is learned from; keep at least 2, or take another baseline"
        )


def filtration_of(trainer: Trainer) -> Filtration | None:
    """The run's filter, the last one where there are several."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in reversed(callbacks) if isinstance(callback, Filtration)), None)


def refuse_other_than_pairs(trainer: Trainer, module: LightningModule) -> None:
    """A preference is about two rows of a group, and the policy's change is measured from a reference.

    Raises:
        ValueError: naming the options, where the module tells its N, or that it keeps no reference.
    """
    n = getattr(module, "num_samples", None)
    if isinstance(n, int) and _kept_of_a_group(trainer, n) != 2:
        raise ValueError(
            f"a preference is about two responses to a prompt, and {_kept_of_a_group(trainer, n)} of num_samples={n} "
            "are kept; add `--filter Filtration --filter.strategy best_worst --filter.keep 2`"
        )
    if getattr(module, "has_reference", True) is False:
        raise ValueError("a preference loss is measured from a reference policy; set `--model.reference=true`")


def _kept_of_a_group(trainer: Trainer, n: int) -> int:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Filtration) and callback.strategy != "none":
            n = callback.keep
    return n
