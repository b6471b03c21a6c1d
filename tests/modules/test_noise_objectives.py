"""What each objective of the noise mask trains, against slow versions of it written out."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, seed_everything
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, Filtration, ReinforceUpdate
from tamis.functional import leave_one_out_baseline
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.mask_draws import MaskDraws
from tamis.modules.mask_rendering import reverse_gradient
from tamis.modules.noise_objective import regularisation
from tamis.modules.noise_policy import LOG_LIMIT, MaskDistribution, NoisePolicy

from .small.masks import batch, fit, noise_mask, parameters, quiet_trainer


def policy_of(module: NoiseMaskPretraining) -> NoisePolicy:
    policy = module.policy
    if policy is None:
        raise ValueError("no policy")
    return policy


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)


def released_step(policy: NoisePolicy, classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One step of the released method, written out: densities summed, their log times one cross-entropy, two SGDs."""
    optimizers = [SGD(classifier.parameters()), SGD(policy.parameters())]
    features = policy.trunk(images)
    alpha = (0.9 * policy.base_alpha + 0.1 * policy.alpha_head(features)).exp()
    beta = (0.9 * policy.base_beta + 0.1 * policy.beta_head(features)).exp()
    distribution = Beta(alpha, beta)
    cells = MaskDraws("0/0", 1).beta(MaskDistribution(alpha.log(), beta.log()))
    from torchvision.transforms.v2.functional import gaussian_blur

    mask = F.interpolate(cells.view(-1, 1, 4, 4), size=images.shape[-1])
    mask = gaussian_blur(mask, [5, 5], [1.5, 1.5])
    cross_entropy = F.cross_entropy(classifier(images * mask), labels)
    loss = (distribution.log_prob(cells).exp().sum(dim=1).log() * cross_entropy).mean()
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def test_official_step_equals_the_released_one() -> None:
    torch.manual_seed(1)
    options = {"masks_per_image": 1, "decay": 0.9, "policy_optimizer": SGD, "classifier_optimizer": SGD}
    ours = noise_mask(objective="official", **options)
    theirs = noise_mask(objective="official", **options)
    theirs.load_state_dict(ours.state_dict())
    start = parameters(ours.classifier)
    images, labels = batch(4)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    quiet_trainer(EnvironmentUpdate(), steps=1).fit(ours, loader)
    released_step(policy_of(theirs), theirs.classifier.train(), images, labels)
    assert not torch.allclose(parameters(ours.classifier), start, atol=1e-4)
    for after, expected in ((ours.policy, theirs.policy), (ours.classifier, theirs.classifier)):
        assert after is not None
        assert expected is not None
        torch.testing.assert_close(parameters(after), parameters(expected), atol=1e-5, rtol=0)


def test_none_is_plain_training_to_the_bit() -> None:
    trained = []
    for make in (
        lambda: noise_mask(objective="none", classifier_optimizer=SGD, classifier_scheduler=one_rate),
        lambda: ImageClassifier("test_resnet", 3, optimizer=SGD, scheduler=one_rate),
    ):
        seed_everything(4, verbose=False)
        module: Any = make()
        trainer = quiet_trainer(*([EnvironmentUpdate()] if isinstance(module, NoiseMaskPretraining) else []), steps=3)
        trainer.fit(module, DataLoader(TensorDataset(*batch(4)), batch_size=4))
        trained.append(module.classifier.state_dict())
    torch.testing.assert_close(trained[0], trained[1], atol=0, rtol=0)


def one_rate(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def test_reinforce_gives_the_classifier_its_plain_gradient_and_each_mask_its_own_credit() -> None:
    torch.manual_seed(2)
    module = noise_mask(masks_per_image=3)
    rollout = module.reward(module.act(batch(4)))
    update = ReinforceUpdate(loss_aggregation="seq_sum")
    rewards = rollout.rewards
    assert rewards is not None
    assert rollout.environment_loss is not None
    advantages = (rewards.view(4, 3) - leave_one_out_baseline(rewards.view(4, 3))).flatten()
    loss, _ = update.loss(module, rollout.replace(advantages=update.estimate_advantages(rollout)))
    alpha, beta = rollout.observations["log_alpha"].exp(), rollout.observations["log_beta"].exp()
    joint = Beta(alpha, beta).log_prob(rollout.actions).sum(dim=1)
    torch.testing.assert_close(loss, -(advantages * joint).mean())
    policy_gradient = torch.autograd.grad(
        rollout.environment_loss.mean(), list(policy_of(module).parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in policy_gradient)  # cells are drawn, not computed


def test_reinforce_is_unbiased_where_the_gradient_is_known() -> None:
    """Reward: the mean cell. d E / d log alpha = m (1 - m) / M for each cell, with m = alpha / (alpha + beta)."""
    torch.manual_seed(3)
    log_alpha = torch.tensor([[0.5, -0.2, 0.9]]).requires_grad_()
    log_beta = torch.tensor([[0.1, 0.4, -0.3]]).requires_grad_()
    rows = MaskDistribution(log_alpha, log_beta).select(torch.zeros(400_000, dtype=torch.int64))
    cells = rows.sample()
    rewards = cells.mean(dim=1).view(-1, 2)
    advantages = (rewards - leave_one_out_baseline(rewards)).flatten()
    objective = (advantages * rows.beta().log_prob(cells).sum(dim=1)).mean()
    m = torch.sigmoid(log_alpha - log_beta).detach()
    expected = m * (1 - m) / 3
    torch.testing.assert_close(
        torch.autograd.grad(objective, (log_alpha, log_beta)), (expected, -expected), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("sign", ["cooperative", "adversarial"])
def test_pathwise_gradient_goes_through_the_cells_and_only_the_policys_turns_with_the_sign(sign: str) -> None:
    torch.manual_seed(5)
    module = noise_mask(objective="pathwise", sign=sign)
    rollout = module.reward(module.act(batch(4)))
    assert rollout.environment_loss is not None
    images, labels = rollout.observations["images"], rollout.observations["labels"]
    slow = module.masked_cross_entropy(images, labels, rollout.actions)
    torch.testing.assert_close(rollout.environment_loss, slow)

    def gradients(loss: Tensor, network: nn.Module) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)

    turn = 1 if sign == "cooperative" else -1
    ours = gradients(rollout.environment_loss.mean(), policy_of(module))
    torch.testing.assert_close(ours, tuple(turn * g for g in gradients(slow.mean(), policy_of(module))))
    torch.testing.assert_close(
        gradients(rollout.environment_loss.mean(), module.classifier), gradients(slow.mean(), module.classifier)
    )
    assert any(gradient.abs().max() > 0 for gradient in ours)


def test_reversed_gradient() -> None:
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    turned = reverse_gradient(tensor)
    torch.testing.assert_close(turned, tensor)
    (turned * torch.tensor([3.0, 5.0])).sum().backward()
    torch.testing.assert_close(tensor.grad, torch.tensor([-3.0, -5.0]))


@pytest.mark.parametrize("sign", ["cooperative", "adversarial"])
def test_pathwise_trains_both_networks(sign: str) -> None:
    module = noise_mask(objective="pathwise", sign=sign, regulariser="entropy")
    before = parameters(policy_of(module)), parameters(module.classifier)
    trainer = fit(module, Filtration("best_worst", keep=2), EnvironmentUpdate())
    assert not torch.equal(parameters(policy_of(module)), before[0])
    assert not torch.equal(parameters(module.classifier), before[1])
    assert "update/mask_regulariser" in trainer.callback_metrics


# Regularisers


def test_entropy_by_hand() -> None:
    # Beta(1, 1) is uniform: entropy 0. Beta(2, 1) has the density 2x: -(log 2 - 1/2) = -.193147.
    log_alpha = torch.tensor([[0.0, math.log(2)]])
    distribution = MaskDistribution(log_alpha, torch.zeros(1, 2))
    penalty = regularisation(distribution, distribution, "entropy")
    torch.testing.assert_close(penalty, torch.tensor([(math.log(2) - 0.5) / 2]))


def test_kl_to_average_by_hand() -> None:
    # KL(Beta(2, 1) || Beta(1, 1)) = integral 2x log(2x) = log 2 - 1/2; of a distribution from itself, 0.
    distribution = MaskDistribution(torch.tensor([[math.log(2), 0.3]]), torch.tensor([[0.0, -0.4]]))
    average = MaskDistribution(torch.tensor([[0.0, 0.3]]), torch.tensor([[0.0, -0.4]]))
    penalty = regularisation(distribution, average, "kl_to_average")
    torch.testing.assert_close(penalty, torch.tensor([(math.log(2) - 0.5) / 2]))


def test_kl_to_average_against_sampling() -> None:
    torch.manual_seed(0)
    one = MaskDistribution(torch.tensor([[0.8, -0.5]]), torch.tensor([[0.1, 0.6]]))
    other = MaskDistribution(torch.tensor([[0.0, 0.2]]), torch.tensor([[0.3, 0.0]]))
    cells = one.beta().sample((200_000,))
    slow = (one.beta().log_prob(cells) - other.beta().log_prob(cells)).mean(dim=0).mean(dim=1)
    torch.testing.assert_close(regularisation(one, other, "kl_to_average"), slow, atol=5e-3, rtol=0)


@pytest.mark.parametrize("regulariser", ["entropy", "kl_to_average"])
@pytest.mark.parametrize("objective", ["reinforce", "pathwise"])
def test_regulariser_is_added_to_the_loss_of_each_row(objective: str, regulariser: str) -> None:
    torch.manual_seed(6)
    module = noise_mask(objective=objective, regulariser=regulariser, regulariser_coef=0.7)
    rollout = module.reward(module.act(batch(4)))
    assert rollout.environment_loss is not None
    rows = MaskDistribution(rollout.observations["log_alpha"], rollout.observations["log_beta"])
    average = policy_of(module).average_distribution()
    images, labels = rollout.observations["images"], rollout.observations["labels"]
    cross_entropy = module.masked_cross_entropy(images, labels, rollout.actions)
    penalty = regularisation(rows, average, regulariser)  # type: ignore[arg-type]
    torch.testing.assert_close(rollout.environment_loss, cross_entropy + 0.7 * penalty)
    gradient = torch.autograd.grad(rollout.environment_loss.sum(), rows.log_alpha)[0]
    assert gradient.abs().max() > 0


def test_kl_to_average_keeps_the_policy_near_its_averages_without_decay() -> None:
    """With decay 0 the averages take no part in the distribution, but are kept for the regulariser."""
    module = noise_mask(regulariser="kl_to_average", decay=0.0)
    before = policy_of(module).base_alpha.clone()
    module.act(batch(4))
    assert not torch.equal(policy_of(module).base_alpha, before)


# What can go wrong


@pytest.mark.parametrize("objective", ["official", "reinforce", "pathwise"])
@pytest.mark.parametrize(("alpha", "beta"), [(30.0, 30.0), (-30.0, -30.0), (30.0, -30.0), (float(LOG_LIMIT), -5.0)])
def test_steps_stay_finite_at_extreme_alpha_and_beta(objective: str, alpha: float, beta: float) -> None:
    torch.manual_seed(0)
    module = noise_mask(objective=objective)
    policy = policy_of(module)
    torch.nn.init.constant_(policy.alpha_head[-1].bias, alpha)  # type: ignore[arg-type]
    torch.nn.init.constant_(policy.beta_head[-1].bias, beta)  # type: ignore[arg-type]
    update = ReinforceUpdate(loss_aggregation="seq_sum") if objective == "reinforce" else EnvironmentUpdate()
    fit(module, update, steps=2)
    assert parameters(module).isfinite().all()


@pytest.mark.parametrize("grid", [4, 7, 32])
def test_grids_from_coarse_to_every_pixel(grid: int) -> None:
    module = noise_mask(grid=grid, kernel_size=1 if grid == 32 else 5)
    fit(module, ReinforceUpdate(), steps=1)
    assert module.draw_masks(batch(2)[0])[0].shape == (2, 1, 32, 32)


def data_of(size: int) -> LightningDataModule:
    images = torch.randn(4, 3, size, size)
    data = LightningDataModule.from_datasets(TensorDataset(images, torch.arange(4) % 3), batch_size=4)
    data.image_size = size  # type: ignore[attr-defined]
    return data


def test_a_grid_finer_than_the_image_is_refused_before_training() -> None:
    module = noise_mask(grid=33, kernel_size=1)
    steps: list[int] = []
    for network in (module.classifier, policy_of(module)):
        network.register_forward_pre_hook(lambda *_: steps.append(1))
    with pytest.raises(ValueError, match="grid must lie between 1 and the image size 32, got 33"):
        quiet_trainer(ReinforceUpdate(), steps=1).fit(module, data_of(32))
    assert not steps


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"kernel_size": 4}, "kernel_size must be odd"),
    ({"grid": 0}, "grid"),
    ({"sigma": 0.0}, "sigma > 0"),
    ({"masks_per_image": 0}, "masks_per_image"),
    ({"objective": "reenforce"}, "objective must be one of official, reinforce"),
    ({"sign": "neutral"}, "sign must be one of"),
    ({"mask_normalisation": "mean"}, "none or unit_mean"),
    ({"divide_lr_factor": True}, "belongs to objective official"),
    ({"objective": "official", "sign": "adversarial"}, "would change nothing in official"),
    ({"objective": "random", "regulariser": "entropy"}, "would change nothing in random"),
    ({"regulariser": "entropy", "regulariser_coef": 0.0}, "regulariser_coef must be positive"),
    ({"decay": 1.0}, "decay must lie"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_could_not_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise_mask(**options)


@pytest.mark.parametrize("objective", ["pathwise", "random", "none", "official"])
def test_objectives_with_a_loss_of_their_own_refuse_an_update_from_rewards(objective: str) -> None:
    with pytest.raises(MisconfigurationException, match="EnvironmentUpdate"):
        fit(noise_mask(objective=objective), ReinforceUpdate())


@pytest.mark.parametrize("objective", ["none", "random", "official", "reinforce"])
def test_a_batch_of_one_image_is_refused(objective: str) -> None:
    module = noise_mask(objective=objective, masks_per_image=1)
    before = parameters(module)
    update = ReinforceUpdate(baseline="none") if objective == "reinforce" else EnvironmentUpdate()
    with pytest.raises(ValueError, match=r"batch normalisation .*needs at least 2 .*got 1"):
        fit(module, update, images=1)
    torch.testing.assert_close(parameters(module), before, atol=0, rtol=0)


def test_the_divided_factor_leaves_the_classifier_its_plain_gradient() -> None:
    module = noise_mask(objective="official", divide_lr_factor=True)
    rollout = module.reward(module.act(batch(4)))
    assert rollout.environment_loss is not None
    images, labels = rollout.observations["images"], rollout.observations["labels"]
    plain = module.masked_cross_entropy(images, labels, rollout.actions).mean()
    weights = list(module.classifier.parameters())
    ours = torch.autograd.grad(rollout.environment_loss.mean(), weights)
    torch.testing.assert_close(ours, torch.autograd.grad(plain, weights), atol=1e-6, rtol=1e-4)


def test_log_probabilities_of_the_acting_policy_are_kept_for_updates_that_compare_with_them() -> None:
    module = noise_mask()
    rollout = module.complete(module.reward(module.act(batch(4))))
    expected = Beta(rollout.observations["log_alpha"].exp(), rollout.observations["log_beta"].exp())
    assert rollout.log_probs is not None
    assert not rollout.log_probs.requires_grad
    torch.testing.assert_close(rollout.log_probs, expected.log_prob(rollout.actions).detach())
    official = noise_mask(objective="official")
    assert official.complete(official.act(batch(4))).log_probs is None  # its update asks for none


def test_a_running_baseline_learns_from_one_mask_an_image() -> None:
    module = noise_mask(masks_per_image=1)
    before = parameters(policy_of(module))
    fit(module, ReinforceUpdate(baseline="running_mean"))
    assert not torch.equal(parameters(policy_of(module)), before)


def test_official_logs_the_rate_that_its_classifier_really_has() -> None:
    metrics: Callable[[bool], dict[str, Tensor]] = lambda divided: dict(  # noqa: E731
        fit(
            noise_mask(objective="official", divide_lr_factor=divided, classifier_optimizer=SGD), EnvironmentUpdate()
        ).callback_metrics
    )
    published, divided = metrics(False), metrics(True)
    torch.testing.assert_close(
        published["update/lr_classifier_effective"], 0.05 * published["update/classifier_lr_factor"]
    )
    assert published["update/classifier_lr_factor"] > 2.5  # about log 16 = 2.8
    assert divided["update/lr_classifier_effective"] == pytest.approx(0.05)


@pytest.mark.parametrize("objective", ["official", "reinforce", "pathwise"])
def test_channels_last_changes_the_memory_and_not_the_numbers(objective: str) -> None:
    trained = []
    for channels_last in (False, True):
        seed_everything(5, verbose=False)
        module = noise_mask(objective=objective, channels_last=channels_last, classifier_optimizer=SGD)
        seen: list[bool] = []
        for network in (module.classifier, policy_of(module).trunk):
            network.register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
        fit(module, ReinforceUpdate() if objective == "reinforce" else EnvironmentUpdate(), steps=1, images=4)
        assert seen == [channels_last] * 2
        trained.append(parameters(module.classifier))
    torch.testing.assert_close(trained[0], trained[1], atol=1e-4, rtol=1e-4)
