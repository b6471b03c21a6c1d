"""How updates cut a rollout into optimiser steps, and those into passes, and average what the steps report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import gcd

import torch
from torch import Tensor

from ..functional import Denominators, weigh
from ..modules.policy import PolicyModule
from ..modules.sound_steps import SKIPPED
from ..processes import mean_over_ranks, place, several_processes
from ..rollout import Rollout

Losses = Callable[[Rollout], tuple[Tensor, dict[str, Tensor]]]


def minibatches(rollout: Rollout, size: int | None, generator: torch.Generator, together: int = 1) -> Iterator[Rollout]:
    """Shuffle the rows and cut them into minibatches of ``size``; ``None`` is one minibatch of all rows.

    Inside a minibatch rows keep the rollout's order, in which those of similar length may stand together. Every
    ``together`` rows that follow each other stay so (the two of a pair); ``size`` is a multiple of it. The minibatches
    of n ranks are together those that one process with minibatches of n x ``size`` makes of the same groups.

    Raises:
        ValueError: if the number of rows is not divisible by ``size``.
    """
    if size is None or size == len(rollout):
        yield rollout
        return
    if size < 1 or len(rollout) % size:
        raise ValueError(
            f"{len(rollout)} kept rows an iteration cannot be cut into minibatches of {size}; "
            f"choose a minibatch_size that divides {len(rollout)}, or null for one step on all rows"
        )
    groups = _groups(rollout, together)
    rank, ranks = place()
    shape = len(groups) * ranks, groups.shape[1] // together
    numbers = deal(shape, len(rollout) // size, generator)[rank::ranks].repeat_interleave(together, dim=1)
    number_of_row = torch.empty(len(rollout), dtype=torch.int64, device=generator.device)
    number_of_row[groups] = numbers
    for rows in number_of_row.argsort(stable=True).view(-1, size):
        yield rollout.select(rows)


def deal(shape: tuple[int, int], minibatches: int, generator: torch.Generator) -> Tensor:
    """Deal rows at random to minibatches, so that ranks that hold every n-th group each have as many of every one.

    No rank may send rows to another, and with rows dealt freely a minibatch would have more of one rank's than of the
    other's. So they are dealt class by class: the groups whose numbers are alike modulo c, the largest number that
    divides both groups and rows of a minibatch, and with that a multiple of any possible n. Whatever n is, the same
    numbers come out.

    Args:
        shape: groups of all ranks, and rows (or pairs) of each.
        minibatches: their number; it divides the rows.
        generator: the same on all ranks.

    Returns:
        ``[groups, rows of a group]`` the minibatch of each row.
    """
    groups, rows = shape
    classes = gcd(groups, groups * rows // minibatches)
    draws = torch.rand(classes, groups // classes * rows, generator=generator, device=generator.device)
    place_in_class = draws.argsort(dim=1)
    return (place_in_class % minibatches).view(classes, -1, rows).transpose(0, 1).reshape(groups, rows)


def microbatches(minibatch: Rollout, size: int | None) -> list[Rollout]:
    """Cut a minibatch into parts of ``size`` rows, in order; ``None`` is one part, the minibatch itself.

    Raises:
        ValueError: if the number of rows is not divisible by ``size``.
    """
    if size is None or size == len(minibatch):
        return [minibatch]
    if size < 1 or len(minibatch) % size:
        raise ValueError(
            f"a minibatch of {len(minibatch)} rows cannot be cut into microbatches of {size}; "
            f"choose a microbatch_size that divides {len(minibatch)}, or null for one pass over all of it"
        )
    return list(minibatch.split(len(minibatch) // size))


def whole_batch(minibatch: Rollout, left_out: Tensor | None = None, weights: Tensor | None = None) -> Denominators:
    """What the losses of a minibatch are divided by, whatever part of it a pass or a rank holds.

    Ranks average their gradients, so each divides by the *mean* over ranks: that makes the average the sum of all rows'
    losses over the number of all steps (or rows), as one process has it. A mean of the ranks' own means would weigh a
    step by the rank it happens to lie on.

    Args:
        minibatch: this rank's rows of the optimiser batch.
        left_out: ``[B]`` bool, rows that are in no loss.
        weights: ``[B]`` how often each row counts; ``None`` is once each.
    """
    mask = minibatch.response_mask
    rows = torch.ones(len(minibatch), device=mask.device) if left_out is None else (~left_out).float()
    counts = torch.stack([weigh(mask, weights).sum(), (rows if weights is None else rows * weights).sum()])
    steps, rows = mean_over_ranks(counts.float()).clamp(min=1)
    return Denominators(steps, rows)


def step(
    module: PolicyModule,
    minibatch: Rollout,
    microbatch_size: int | None,
    losses: Losses,
    *,
    environment_loss: Tensor | None = None,
    max_grad_norm: float | None = None,
    hold: Collection[str] = (),
) -> dict[str, Tensor]:
    """One optimiser step on a minibatch whose gradient is gathered microbatch by microbatch.

    Args:
        module: evaluates the actions and steps.
        minibatch: rows of the step.
        microbatch_size: rows a forward and backward pass.
        losses: loss and statistics of a microbatch, divided by the whole minibatch's numbers, so that they add up.
        environment_loss: see `PolicyModule.optimize`.
        max_grad_norm: see `PolicyModule.optimize`.
        hold: see `PolicyModule.optimize`.

    Returns:
        The minibatch's statistics and the norms of its gradients.
    """
    stats: list[dict[str, Tensor]] = []

    def passes(part: Rollout, with_environment: bool) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            value, reported = losses(part)
            stats.append(reported)
            idle = several_processes() and not with_environment
            return value + _no_gradient_of_the_environment(module) if idle else value

        return loss

    parts = microbatches(minibatch, microbatch_size)
    norms = module.optimize(
        [passes(part, environment_loss is not None and number == 0) for number, part in enumerate(parts)],
        environment_loss,
        max_grad_norm,
        hold=hold,
        # Actions that carry a graph (a noise mask's) hang on one forward of the whole rollout.
        shared_graph=any(tensor.requires_grad for tensor in minibatch.observations.values()),
    )
    return _add_up(stats) | norms


def one_pass(
    module: PolicyModule,
    batches: Iterable[Rollout],
    microbatch_size: int | None,
    losses_of: Callable[[Rollout], Losses],
    environment_loss: Tensor | None,
    max_grad_norm: float | None,
) -> dict[str, Tensor]:
    """One optimiser step on each minibatch, and the mean of what the steps report.

    Args:
        module: evaluates the actions and steps.
        batches: the minibatches.
        microbatch_size: rows a forward and backward pass.
        losses_of: the losses of a minibatch's parts, divided by that minibatch's numbers.
        environment_loss: ``[B]`` of the whole rollout; the environment learns once, in the first step.
        max_grad_norm: see `PolicyModule.optimize`.
    """
    environment = None if environment_loss is None else environment_loss.mean()
    steps: list[dict[str, Tensor]] = []
    for minibatch in batches:
        # Before the first step the graph of the actions is still good; after it the policy is another one.
        rows = minibatch.detach() if steps else minibatch
        stats = step(
            module,
            rows,
            microbatch_size,
            losses_of(rows),
            environment_loss=None if steps else environment,
            max_grad_norm=max_grad_norm,
        )
        steps.append(stats)
    return mean_stats(steps)


def mean_stats(steps: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each statistic over the steps that report it; skipped ones count only where all were skipped."""
    steps = [step for step in steps if SKIPPED not in step] or steps
    names = {name: None for step in steps for name in step}
    return {
        name: torch.stack([step[name].float() for step in steps if name in step]).mean()
        for name in names
        if name != SKIPPED  # the module counts them
    }


def _no_gradient_of_the_environment(module: PolicyModule) -> Tensor:
    """0, on which the environment's networks depend: ranks wait for a gradient of every parameter in every pass."""
    networks = module.networks()
    idle = [networks[name] for name in module.environment_networks & networks.keys()]
    parameters = [parameter for network in idle for parameter in network.parameters() if parameter.requires_grad]
    # Sums of no elements: they cost nothing, and are 0 whatever the parameters are.
    return sum((parameter.flatten()[:0].sum() for parameter in parameters), torch.zeros((), device=module.device))


def _groups(rollout: Rollout, together: int) -> Tensor:
    """``[P, N]`` rows of each group; where their sizes differ, every ``together`` rows for a group."""
    counts = rollout.group_ids.unique(return_counts=True)[1]
    if bool((counts == counts[0]).all()) and int(counts[0]) % together == 0:
        return rollout.groups()
    return torch.arange(len(rollout), device=rollout.group_ids.device).view(-1, together)


def _add_up(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Statistics of a minibatch from its microbatches': shares add up, of the largest values the largest counts."""
    return {
        name: torch.stack([part[name] for part in parts]).amax(0)
        if name.endswith("_max")
        else torch.stack([part[name] for part in parts]).sum(0)
        for name in parts[0]
    }
