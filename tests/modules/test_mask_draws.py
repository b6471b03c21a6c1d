"""Masks of a training batch: each a function of seed, iteration and its image's number, whoever draws it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tamis.modules.mask_draws import MaskDraws
from tamis.modules.noise_policy import CELL_MARGIN, MaskDistribution
from tamis.seeding import generator_of, seed_of

from .small.masks import batch, noise_mask

CPU = torch.device("cpu")


def rows_of(images: int, masks: int, cells: int = 6) -> MaskDistribution:
    generator = generator_of("distributions")
    per_image = MaskDistribution(*(torch.randn(images, cells, generator=generator) for _ in range(2)))
    return per_image.select(torch.arange(images).repeat_interleave(masks))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("masks", [1, 3])
def test_ranks_draw_what_one_process_draws(ranks: int, masks: int) -> None:
    rows = rows_of(8, masks)
    whole = MaskDraws("0/5", masks).beta(rows)
    flat = MaskDraws("0/5", masks).uniform(8 * masks, 6, CPU)
    later = MaskDraws("0/5", masks, first=4).beta(rows.select(torch.arange(4 * masks, 8 * masks)))
    assert torch.equal(later, whole[4 * masks :])
    for rank in range(ranks):
        mine = torch.arange(8 * masks).view(8, masks)[rank::ranks].flatten()
        draws = MaskDraws("0/5", masks, rank, ranks)
        assert torch.equal(draws.beta(rows.select(mine)), whole[mine])
        assert torch.equal(draws.uniform(len(mine), 6, CPU), flat[mine])


def test_no_two_masks_are_alike() -> None:
    """Of other images, other k, other iterations and other seeds."""
    rows = MaskDistribution(torch.zeros(6, 8), torch.zeros(6, 8))
    drawn = torch.cat([MaskDraws(run, 3).beta(rows) for run in ("0/0", "0/1", "1/0", "1/1")])
    assert len(drawn.unique(dim=0)) == 24


def test_a_row_is_what_torchs_beta_draws_with_its_gradient() -> None:
    rows = rows_of(4, 2)
    ours = MaskDistribution(*(parameter.clone().requires_grad_() for parameter in rows))
    cells = MaskDraws("7/1", 2).beta(ours, pathwise=True)
    weights = torch.randn_like(cells)
    (cells * weights).sum().backward()
    for row, key in enumerate(f"mask/7/1/{image}/{mask}" for image in range(4) for mask in range(2)):
        theirs = MaskDistribution(*(parameter[row].clone().requires_grad_() for parameter in rows))
        torch.manual_seed(seed_of(key))
        expected = theirs.rsample()
        assert torch.equal(cells[row], expected)
        (expected * weights[row]).sum().backward()
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad[row], other.grad)
    assert not MaskDraws("7/1", 2).beta(ours).requires_grad


def test_draws_follow_the_distribution() -> None:
    alpha, beta = 2.0, 0.7
    rows = MaskDistribution(torch.full((64, 500), alpha).log(), torch.full((64, 500), beta).log())
    for cells, mean, variance in (
        (
            MaskDraws("0/0", 1).beta(rows),
            alpha / (alpha + beta),
            alpha * beta / (alpha + beta) ** 2 / (alpha + beta + 1),
        ),
        (MaskDraws("0/0", 2).uniform(64, 500, CPU), 1 / 2, 1 / 12),
    ):
        assert float(cells.mean()) == pytest.approx(mean, abs=0.005)
        assert float(cells.var()) == pytest.approx(variance, abs=0.003)
        assert float(cells.min()) >= CELL_MARGIN
        assert float(cells.max()) <= 1 - CELL_MARGIN


def test_an_accelerators_ranks_take_their_own_rows_of_one_draw() -> None:
    whole = torch.arange(24).view(12, 2)  # 6 images, 2 masks each
    parts = [MaskDraws("0/0", 2, rank, 3)._mine(whole) for rank in range(3)]
    assert parts[1][:, 0].tolist() == [4, 6, 16, 18]
    assert torch.cat(parts).unique().tolist() == list(range(24))
    rebuilt = torch.zeros_like(whole)
    for rank, part in enumerate(parts):
        MaskDraws("0/0", 2, rank, 3)._mine(rebuilt, part)
    assert torch.equal(rebuilt, whole)


@pytest.mark.parametrize("objective", ["reinforce", "random"])
def test_training_draws_by_seed_and_iteration_and_leaves_the_common_generator_alone(objective: str) -> None:
    module = noise_mask(objective=objective, seed=3)
    images = batch(4)
    before = torch.get_rng_state()
    first = module.act(images).actions
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    drawn = {"again": module.act(images).actions}
    module.iteration = 1
    drawn["next"] = module.act(images).actions
    module.iteration, module.seed = 0, 4
    drawn["other seed"] = module.act(images).actions
    same = partial(torch.allclose, first, atol=1e-3)
    assert {name: same(cells) for name, cells in drawn.items()} == {"again": True, "next": False, "other seed": False}
