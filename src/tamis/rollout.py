"""The record that travels round the loop: one batch of actions and everything learned about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Rollout:
    """A batch of B actions of up to T steps each; every field has one entry a row.

    A step is a token of a response, or a cell of a noise mask. Fields that are not known yet are ``None``: the loop
    fills them as it goes (act, reward, filter, complete, update).

    Args:
        group_ids: ``[B]`` int64. Rows that answer the same prompt or image share an id, and only those.
        actions: ``[B, T]`` token ids, or mask cells in (0, 1).
        response_mask: ``[B, T]`` bool, True where a step was really taken (padding is False).
        rewards: ``[B]`` one score a row, before any KL penalty.
        log_probs: ``[B, T]`` log-probabilities under the parameters that acted.
        ref_log_probs: ``[B, T]`` the same under the frozen reference policy.
        values: ``[B, T]`` the critic's estimates when the rollout was completed.
        advantages: ``[B, T]`` filled by the update.
        returns: ``[B, T]`` the critic's targets, filled by the update.
        kept: ``[B]`` how often filtration kept each row, where the update needs the other rows, too, and they were not
            dropped; ``None`` is once each.
        truncated: ``[B]`` bool, True where the response hit the length limit instead of ending by itself.
        environment_loss: ``[B]`` a loss of the environment (the classifier), carrying its graph.
        observations: what the module needs to evaluate the actions again, one entry a row.
        records: one dict a row for people and files: prompt, completion, task, verdict.
    """

    group_ids: Tensor
    actions: Tensor
    response_mask: Tensor
    rewards: Tensor | None = None
    log_probs: Tensor | None = None
    ref_log_probs: Tensor | None = None
    values: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    kept: Tensor | None = None
    truncated: Tensor | None = None
    environment_loss: Tensor | None = None
    observations: dict[str, Tensor] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.group_ids.shape[0])

    def replace(self, **changes: Any) -> Rollout:  # noqa: ANN401 - the fields' own types are checked by dataclasses
        """The same rollout with some fields changed."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: Tensor) -> Rollout:
        """The rows with the given indices, in that order; an index may come twice (sampling with replacement).

        Raises:
            ValueError: if ``rows`` is not an int64 vector.
        """
        if rows.dtype != torch.int64 or rows.dim() != 1:
            raise ValueError(f"rows must be a vector of int64 indices, got {rows.dtype} of shape {tuple(rows.shape)}")
        chosen = self._map(lambda tensor: tensor.index_select(0, rows.to(tensor.device)))
        if self.records:
            chosen.records = [self.records[row] for row in rows.tolist()]
        return chosen

    def split(self, n: int) -> Iterator[Rollout]:
        """Cut into ``n`` consecutive parts of equal size.

        Raises:
            ValueError: if the number of rows is not divisible by ``n``.
        """
        if n < 1 or len(self) % n:
            raise ValueError(f"{len(self)} rows cannot be split into {n} equal parts; choose a divisor of {len(self)}")
        yield from self.chunks(len(self) // n)

    def chunks(self, size: int) -> Iterator[Rollout]:
        """Cut into consecutive parts of ``size`` rows; the last may have fewer."""
        for rows in torch.arange(len(self), device=self.group_ids.device).split(size):
            yield self.select(rows)

    def groups(self) -> Tensor:
        """``[P, N]`` row indices: one group a row, groups by rising id, rows of a group in their order.

        Raises:
            ValueError: if groups differ in size, as ranking inside groups and equal work on every rank need.
        """
        counts = torch.unique(self.group_ids, return_counts=True)[1]
        if len(set(counts.tolist())) != 1:
            raise ValueError(f"every group needs the same number of rows, got groups of {sorted(set(counts.tolist()))}")
        return self.group_ids.argsort(stable=True).view(len(counts), -1)

    def first_of_each_group(self) -> tuple[Tensor, Tensor]:
        """``[P]`` the row where each group comes first, by rising id, and ``[B]`` each row's place among the groups."""
        distinct, place = torch.unique(self.group_ids, return_inverse=True)
        rows = torch.arange(len(self), device=self.group_ids.device)
        first = torch.full_like(distinct, len(self)).scatter_reduce(0, place, rows, reduce="amin")
        return first, place

    def to(self, device: torch.device | str) -> Rollout:
        """The same rollout with every tensor on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> Rollout:
        """The same rollout without any graph: its numbers are constants from here on."""
        return self._map(lambda tensor: tensor.detach())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rollout:
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = change(value)
        changes["observations"] = {name: change(tensor) for name, tensor in self.observations.items()}
        return dataclasses.replace(self, **changes)
