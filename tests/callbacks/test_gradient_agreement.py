"""The gradient that is diagnosed is the one that the updates follow, and its halves know nothing of each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tamis.callbacks import EnvironmentUpdate, MaskDiagnostics, PPOUpdate, ReinforceUpdate
from tamis.callbacks.gradient_agreement import Comparison, comparison_of, draw_gradient, gradient_agreement
from tamis.functional import official_noise_objective
from tamis.modules import NoiseMaskPretraining
from tamis.modules.noise_policy import MaskDistribution, NoisePolicy
from tamis.rollout import Rollout


def noise_mask(kind: type[NoiseMaskPretraining] = NoiseMaskPretraining, **options: Any) -> NoiseMaskPretraining:
    settings: dict[str, Any] = {
        "backbone": "test_resnet",
        "policy_backbone": "test_resnet",
        "num_classes": 3,
        "grid": 4,
        "kernel_size": 3,
        "sigma": 1.0,
        "decay": 0.0,
    }
    return kind(**(settings | options)).eval()


def batch(images: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(images, 3, 32, 32), torch.arange(images) % 3


def policy_of(module: NoiseMaskPretraining) -> NoisePolicy:
    assert module.policy is not None
    return module.policy


def constant(distribution: MaskDistribution) -> MaskDistribution:
    return MaskDistribution(distribution.log_alpha.detach(), distribution.log_beta.detach())


def through(module: NoiseMaskPretraining, distribution: MaskDistribution, gradient: Tensor) -> list[Tensor]:
    parameters = list(policy_of(module).parameters())
    found = torch.autograd.grad(
        list(distribution), parameters, list(gradient), retain_graph=True, materialize_grads=True
    )
    return list(found)


def step_gradient(
    module: NoiseMaskPretraining, update: ReinforceUpdate, images: Tensor, labels: Tensor, cells: list[Tensor]
) -> list[Tensor]:
    """By the update's own loss, from a rollout of the same cells."""
    k = len(cells)
    rows = {"images": images.repeat_interleave(k, 0), "labels": labels.repeat_interleave(k)}
    distribution = constant(policy_of(module)(images)).select(torch.arange(len(images)).repeat_interleave(k))
    rows |= {"log_alpha": distribution.log_alpha, "log_beta": distribution.log_beta}
    actions = torch.stack(cells, dim=1).flatten(0, 1)
    groups = torch.arange(len(images)).repeat_interleave(k)
    rollout = module.reward(
        Rollout(
            group_ids=groups,
            actions=actions,
            response_mask=torch.ones_like(actions, dtype=torch.bool),
            observations=rows,
        )
    )
    rollout = rollout.replace(advantages=update.estimate_advantages(rollout))
    loss, _ = update.loss(module, rollout)
    return list(
        torch.autograd.grad(loss, list(policy_of(module).parameters()), retain_graph=True, materialize_grads=True)
    )


@pytest.mark.parametrize(
    ("k", "baseline", "comparison"),
    [
        (3, "leave_one_out", "own_masks"),
        (2, "none", "nothing"),
        (1, "running_mean", "batch_mean"),  # whose first mean is the batch's own
    ],
)
@pytest.mark.parametrize("sign", ["cooperative", "adversarial"])
def test_a_draw_is_the_step_that_the_update_would_take(
    k: int, baseline: Any, comparison: Comparison, sign: str
) -> None:
    module, (images, labels) = noise_mask(masks_per_image=k, sign=sign), batch()
    distribution = policy_of(module)(images)
    torch.manual_seed(4)
    gradient, cost = draw_gradient(module, constant(distribution), images, labels, comparison)
    torch.manual_seed(4)
    cells = [distribution.sample() for _ in range(k)]
    update = ReinforceUpdate(baseline=baseline, loss_aggregation="seq_sum")
    expected = step_gradient(module, update, images, labels, cells)
    torch.testing.assert_close(through(module, distribution, gradient), expected, atol=1e-5, rtol=1e-3)
    each = [float(module.masked_cross_entropy(images, labels, mask).mean().detach()) for mask in cells]
    assert cost == pytest.approx(sum(each) / k, rel=1e-5)


def test_official_draw_is_the_gradient_of_the_log_sum_exp() -> None:
    module, (images, labels) = noise_mask(objective="official", masks_per_image=2), batch()
    distribution = policy_of(module)(images)
    torch.manual_seed(4)
    gradient, cost = draw_gradient(module, constant(distribution), images, labels, "batch_mean")
    torch.manual_seed(4)
    cells = [distribution.sample() for _ in range(2)]
    log_probs = torch.cat([distribution.beta().log_prob(mask) for mask in cells])
    costs = torch.cat([module.masked_cross_entropy(images, labels, mask) for mask in cells]).detach()
    loss = official_noise_objective(log_probs, costs)
    expected = torch.autograd.grad(
        loss, list(policy_of(module).parameters()), retain_graph=True, materialize_grads=True
    )
    torch.testing.assert_close(through(module, distribution, cost * gradient), list(expected), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sign", ["cooperative", "adversarial"])
def test_pathwise_draw_is_the_gradient_of_the_cross_entropy(sign: str) -> None:
    module, (images, labels) = noise_mask(objective="pathwise", sign=sign), batch()
    distribution = policy_of(module)(images)
    torch.manual_seed(4)
    gradient, _ = draw_gradient(module, constant(distribution), images, labels, "batch_mean")
    torch.manual_seed(4)
    costs = [module.masked_cross_entropy(images, labels, distribution.rsample()).mean() for _ in range(2)]
    loss = torch.stack(costs).mean() * (1 if sign == "cooperative" else -1)
    expected = torch.autograd.grad(
        loss, list(policy_of(module).parameters()), retain_graph=True, materialize_grads=True
    )
    torch.testing.assert_close(through(module, distribution, gradient), list(expected), atol=1e-5, rtol=1e-3)


class KnownCost(NoiseMaskPretraining):
    """Each mask costs ``signal`` times its mean cell, a part of its image's own, and noise."""

    signal = 1.0
    of_image = 0.0
    noise = 0.0

    def masked_cross_entropy(self, images: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
        own = self.of_image * labels.float()
        return self.signal * cells.mean(dim=1) + own + self.noise * torch.randn(len(cells)) + 0 * images.mean()


def known_cost(**options: Any) -> KnownCost:
    module = noise_mask(KnownCost, **options)
    assert isinstance(module, KnownCost)
    return module


def cosine(comparison: Comparison = "own_masks", draws: int = 128, **costs: float) -> float:
    torch.manual_seed(0)
    module = known_cost(masks_per_image=2)
    for name, value in costs.items():
        setattr(module, name, value)
    images, labels = batch(8)
    torch.manual_seed(2)
    return gradient_agreement(module, images, labels, draws, comparison).signal


def test_cosine_tells_signal_from_noise() -> None:
    assert cosine() > 0.9
    noise = [cosine(signal=0.0, noise=1.0), cosine(signal=0.0, noise=1.0, draws=64)]
    assert max(map(abs, noise)) < 0.5  # a policy's gradient has few directions that matter; theirs is left to chance
    assert cosine(noise=0.3) < cosine(noise=0.1) < cosine()
    assert cosine(noise=0.3, draws=512) > cosine(noise=0.3)


def test_masks_of_one_image_take_out_what_images_differ_by() -> None:
    """Why K = 2 learns where K = 1 does not: the cost of an image is noise to a baseline of the batch."""
    assert cosine("own_masks", of_image=10.0) == pytest.approx(cosine("own_masks"), abs=1e-3)
    assert cosine("batch_mean", of_image=10.0) < 0.5 * cosine("own_masks", of_image=10.0)


def test_official_signal_and_bias_apart() -> None:
    """A constant cross-entropy leaves the bias, in which all draws agree, and no signal."""
    torch.manual_seed(0)
    module = known_cost(objective="official", masks_per_image=1)
    bias = policy_of(module).alpha_head[-1].bias
    assert isinstance(bias, Tensor)
    nn.init.constant_(bias, 1.5)  # at Beta(1, 1), where an untrained policy is, the bias itself is 0
    module.signal, (images, labels) = 0.0, batch(8)
    module.of_image = 1.0
    found = gradient_agreement(module, images, labels, 64, "batch_mean")
    assert found.bias is not None
    assert found.bias > 0.8
    assert math.isnan(found.signal) or abs(found.signal) < 0.6
    module.signal, module.of_image = 100.0, 0.0
    assert gradient_agreement(module, images, labels, 256, "batch_mean").signal > 0.5


def test_a_large_mean_does_not_leak_into_the_official_signal() -> None:
    """The covariance is with the half's own mean cost; 1 added to every cost changes the bias alone."""
    found = []
    for of_image in (0.0, 3.0):
        torch.manual_seed(0)
        module = known_cost(objective="official", masks_per_image=1)
        module.signal, module.of_image = 100.0, of_image
        images, labels = batch(8)
        torch.manual_seed(1)
        found.append(gradient_agreement(module, images, torch.ones_like(labels), 32, "batch_mean").signal)
    assert found[0] == pytest.approx(found[1], abs=1e-3)


@pytest.mark.parametrize("objective", ["reinforce", "official", "pathwise"])
def test_nothing_of_the_module_changes(objective: Any) -> None:
    module, (images, labels) = noise_mask(objective=objective), batch()
    policy_of(module)(images).log_alpha.sum().backward()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    with torch.inference_mode():  # as in a validation
        found = gradient_agreement(module, images, labels, 4, "own_masks")
        again = gradient_agreement(module, images, labels, 4, "own_masks")
    assert -1 <= found.signal <= 1
    assert found.signal != again.signal  # seeds are the caller's business
    assert not module.training
    torch.testing.assert_close(dict(module.state_dict()), state, atol=0, rtol=0)
    left = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    torch.testing.assert_close(left, gradients, atol=0, rtol=0)


def test_frozen_parts_of_the_policy_have_no_part() -> None:
    module, (images, labels) = noise_mask(), batch()
    nn.Module.requires_grad_(policy_of(module).trunk, False)
    assert -1 <= gradient_agreement(module, images, labels, 4, "own_masks").signal <= 1


Expected = Literal["own_masks", "batch_mean", "nothing"]


@pytest.mark.parametrize(
    ("update", "k", "expected"),
    [
        (ReinforceUpdate(), 2, "own_masks"),
        (ReinforceUpdate(), 1, "batch_mean"),
        (ReinforceUpdate(baseline="group_mean"), 2, "own_masks"),
        (ReinforceUpdate(baseline="running_mean"), 2, "batch_mean"),
        (ReinforceUpdate(baseline="none"), 2, "nothing"),
        (PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0), 4, "own_masks"),
        (EnvironmentUpdate(), 2, "batch_mean"),
    ],
)
def test_compared_as_the_update_compares(tmp_path: Path, update: Any, k: int, expected: Expected) -> None:
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", callbacks=[MaskDiagnostics(), update], logger=False)
    assert comparison_of(trainer, noise_mask(masks_per_image=k)) == expected


def test_no_policy_no_gradient() -> None:
    images, labels = batch()
    with pytest.raises(ValueError, match="'random' has no policy"):
        gradient_agreement(noise_mask(objective="random"), images, labels, 4, "batch_mean")
