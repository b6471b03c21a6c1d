"""The random cells of a batch, each image's masks a function of seed, iteration and the image's number."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..seeding import generator_of
from .noise_policy import CELL_MARGIN, MaskDistribution


class MaskDraws(NamedTuple):
    """Draws K masks of each image of a rank's batch; n ranks draw what one process draws of the same images.

    On a CPU every row has a generator of its own, which costs nothing beside the draw. On an accelerator, where a call
    a row would cost more than the draws, one generator serves the batch of all ranks, of which each rank computes all
    and keeps its rows: the numbers then also hang on how many rows that batch has.

    Args:
        run: what tells one batch from another: seed and iteration.
        masks: K.
        rank: number of this process.
        ranks: how many there are; images are dealt to them in turn.
        first: number of the batch's first image among this rank's, where a run is more than one batch.
    """

    run: str
    masks: int
    rank: int = 0
    ranks: int = 1
    first: int = 0

    def beta(self, distribution: MaskDistribution, pathwise: bool = False) -> Tensor:
        """``[B * K, M]`` cells in (0, 1), one mask a row of the distribution.

        Args:
            distribution: of each row; row ``k + K * i`` is mask k of image i.
            pathwise: let the cells carry their gradient with respect to the parameters.
        """
        concentration = torch.stack(list(distribution), dim=-1).exp()
        with torch.no_grad():
            pairs = self._drawn(concentration)
        if pathwise:
            pairs = _Pathwise.apply(concentration, pairs)
        return pairs[..., 0].clamp(CELL_MARGIN, 1 - CELL_MARGIN)

    def uniform(self, rows: int, cells: int, device: torch.device) -> Tensor:
        """``[rows, cells]`` uniform in (0, 1): a Beta(1, 1)'s cells at a fraction of their price."""
        drawn = torch.empty(rows, cells, device=device)
        if device.type == "cpu":
            for row, key in zip(drawn, self._keys(rows), strict=True):
                row.uniform_(generator=generator_of(key))
        else:
            whole = torch.rand(rows * self.ranks, cells, generator=self._of_all_ranks(device), device=device)
            drawn = self._mine(whole)
        return drawn.clamp(CELL_MARGIN, 1 - CELL_MARGIN)

    def _drawn(self, concentration: Tensor) -> Tensor:
        """``[B * K, M, 2]`` pairs (x, 1 - x), by the sampler under torch's Beta, which itself takes no generator."""
        rows, device = len(concentration), concentration.device
        if device.type == "cpu":
            keys = self._keys(rows)
            parts = [
                torch._sample_dirichlet(row, generator=generator_of(key))
                for row, key in zip(concentration, keys, strict=True)
            ]
            return torch.stack(parts)
        # Each number hangs on its place in the tensor: the other ranks' rows stand in it, whatever is drawn there.
        whole = concentration.new_ones(rows * self.ranks, *concentration.shape[1:])
        self._mine(whole, concentration)
        drawn: Tensor = torch._sample_dirichlet(whole, generator=self._of_all_ranks(device))
        return self._mine(drawn)

    def _mine(self, whole: Tensor, rows: Tensor | None = None) -> Tensor:
        """This rank's rows of the batch of all ranks; given some, they are put there."""
        images = whole.unflatten(0, (-1, self.ranks, self.masks))
        if rows is not None:
            images[:, self.rank] = rows.unflatten(0, (-1, self.masks))
        mine: Tensor = images[:, self.rank].flatten(0, 1)
        return mine

    def _keys(self, rows: int) -> list[str]:
        images = range(self.first, self.first + rows // self.masks)
        numbers = [image * self.ranks + self.rank for image in images]
        return [f"mask/{self.run}/{number}/{mask}" for number in numbers for mask in range(self.masks)]

    def _of_all_ranks(self, device: torch.device) -> torch.Generator:
        return generator_of(f"mask/{self.run}/{self.first * self.ranks}", device)


class _Pathwise(torch.autograd.Function):
    """Gives drawn cells the implicit gradient (Figurnov et al. 2018) that torch's Beta gives the ones it draws."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, pairs: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context
        ctx.save_for_backward(concentration, pairs)
        return pairs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (gradient,) = gradients
        concentration, pairs = ctx.saved_tensors
        total = concentration.sum(dim=-1, keepdim=True).expand_as(concentration)
        along = gradient - (pairs * gradient).sum(
            dim=-1, keepdim=True
        )  # what moves a pair off its sum of 1 does nothing
        slope: Tensor = torch._dirichlet_grad(pairs, concentration, total)
        return slope * along, None
