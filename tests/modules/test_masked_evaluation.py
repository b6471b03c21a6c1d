"""The classifier scored on clean images, behind mean masks and behind drawn ones."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate
from tamis.modules import NoiseMaskPretraining

from .small.masks import batch, noise_mask, quiet_trainer


def evaluate(module: NoiseMaskPretraining, images: int = 12) -> dict[str, float]:
    torch.manual_seed(8)
    loader = DataLoader(TensorDataset(*batch(images)), batch_size=4)
    trainer = quiet_trainer(EnvironmentUpdate(), steps=1)
    return dict(trainer.validate(module, loader, verbose=False)[0])


def test_mean_masks_are_the_expected_cells() -> None:
    torch.manual_seed(1)
    module = noise_mask().eval()
    measured = evaluate(module)
    torch.manual_seed(8)
    images, labels = batch(12)
    assert module.policy is not None
    with torch.no_grad():
        alpha, beta = module.policy(images)
        cells = alpha.exp() / (alpha.exp() + beta.exp())
        cost = module.masked_cross_entropy(images, labels, cells)
        behind = module(images * module.render_masks(cells, 32)).argmax(dim=1)
        clean = module(images).argmax(dim=1)
    assert measured["val/mean_mask_cross_entropy"] == pytest.approx(cost.mean().item(), rel=1e-5)
    assert measured["val/mean_mask_accuracy"] == pytest.approx((behind == labels).float().mean().item())
    assert measured["val/accuracy"] == pytest.approx((clean == labels).float().mean().item())


def test_the_same_weights_give_the_same_numbers_and_training_draws_on() -> None:
    module = noise_mask()
    first = evaluate(module)
    drawn = torch.rand(3)
    second = evaluate(module)
    assert first == second
    torch.testing.assert_close(torch.rand(3), drawn)  # evaluation took nothing from the stream


def test_another_seed_draws_other_masks_and_leaves_the_rest() -> None:
    module = noise_mask()
    first = evaluate(module)
    module.eval_seed = 1
    second = evaluate(module)
    assert first["val/sampled_mask_cross_entropy"] != second["val/sampled_mask_cross_entropy"]
    assert first["val/mean_mask_cross_entropy"] == second["val/mean_mask_cross_entropy"]


def test_batches_get_different_masks() -> None:
    """The same images twice: were the masks the same, so were the halves' cross-entropies."""
    torch.manual_seed(3)
    images, labels = batch(4)
    module = noise_mask().eval()
    costs: list[float] = []
    for twice in (1, 2):
        loader = DataLoader(TensorDataset(images.repeat(twice, 1, 1, 1), labels.repeat(twice)), batch_size=4)
        measured: Any = quiet_trainer(EnvironmentUpdate(), steps=1).validate(module, loader, verbose=False)[0]
        costs.append(measured["val/sampled_mask_cross_entropy"])
    assert costs[0] != pytest.approx(costs[1])


def test_masks_of_the_random_control_are_uniform() -> None:
    measured = evaluate(noise_mask(objective="random"))
    assert {"val/mean_mask_accuracy", "val/sampled_mask_accuracy", "val/sampled_mask_balanced_accuracy"} <= set(
        measured
    )


@pytest.mark.parametrize("options", [{"masked_evaluation": False}, {"objective": "none"}])
def test_without_masked_evaluation_only_clean_images_are_scored(options: dict[str, object]) -> None:
    measured = evaluate(noise_mask(**options))
    assert "val/accuracy" in measured
    assert not any("mask" in name for name in measured)
