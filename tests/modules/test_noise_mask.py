from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from torch.distributions import Beta
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, Filtration, PPOUpdate, ReinforceUpdate, RolloutMetrics
from tamis.functional import upsample_blur
from tamis.modules import NoiseMaskPretraining
from tamis.modules.mask_rendering import deviation
from tamis.modules.noise_policy import LOG_LIMIT, NoisePolicy
from tamis.rollout import Rollout

from .small.masks import batch, fit, noise_mask, parameters, quiet_trainer

# The policy network


def test_running_average_follows_the_published_recursion() -> None:
    policy = NoisePolicy("test_resnet", grid=2, decay=0.9, average=0.99)
    base = policy.base_alpha.clone()
    images = torch.randn(3, 3, 32, 32)
    with policy.frozen_statistics(), torch.no_grad():
        head = policy.alpha_head(policy.trunk(images))
        distribution = policy(images, update_average=True)
    torch.testing.assert_close(distribution.log_alpha, 0.9 * base + 0.1 * head)  # the old average, not the new one
    torch.testing.assert_close(policy.base_alpha, 0.99 * base + 0.01 * head.mean(dim=0, keepdim=True))


def test_averages_start_uniform_and_are_saved() -> None:
    state = NoisePolicy("test_resnet", grid=64).state_dict()
    assert 0 <= state["base_alpha"].min() < 0.01
    assert 0.99 < state["base_alpha"].max() < 1
    assert abs(state["base_beta"].mean() - 0.5) < 0.02


def test_heads_run_once_a_step() -> None:
    module = noise_mask()
    calls: list[int] = []
    assert module.policy is not None
    module.policy.alpha_head.register_forward_hook(lambda *_: calls.append(1))
    fit(module, ReinforceUpdate(), steps=3)
    assert len(calls) == 3


def test_parameters_and_cells_stay_finite_whatever_the_heads_say() -> None:
    policy = NoisePolicy("test_resnet", grid=4, decay=0.0).eval()
    torch.nn.init.constant_(policy.alpha_head[-1].bias, -1e4)  # type: ignore[arg-type]
    distribution = policy(torch.randn(2, 3, 32, 32))
    assert distribution.log_alpha.min() == -LOG_LIMIT
    assert distribution.beta().log_prob(distribution.sample()).isfinite().all()


def test_frozen_statistics_leave_the_batch_norms_alone() -> None:
    policy = NoisePolicy("test_resnet", grid=4)
    before = {name: buffer.clone() for name, buffer in policy.named_buffers()}
    with policy.frozen_statistics():
        policy(torch.randn(3, 3, 32, 32))
    assert all(torch.equal(buffer, before[name]) for name, buffer in policy.named_buffers())
    policy(torch.randn(3, 3, 32, 32))
    assert not torch.equal(policy.get_buffer("trunk.bn1.running_mean"), before["trunk.bn1.running_mean"])


def test_one_image_cannot_be_batch_normalised() -> None:
    with pytest.raises(ValueError, match="at least 2 different images"):
        NoisePolicy("test_resnet", grid=4)(torch.randn(1, 3, 32, 32))


# The module


def test_rows_of_an_image_share_its_group() -> None:
    images, labels = batch(3)
    rollout = noise_mask().act((images, labels))
    assert rollout.group_ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert rollout.observations["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(rollout.observations["images"][5], images[2])
    assert rollout.actions.shape == (6, 16)
    assert not torch.equal(rollout.actions[0], rollout.actions[1])


@pytest.mark.parametrize("sign", ["cooperative", "adversarial"])
def test_reward_is_the_cross_entropy_seen_through_the_mask(sign: str) -> None:
    module = noise_mask(sign=sign).eval()
    rollout = module.reward(module.act(batch(2)))
    masks = upsample_blur(rollout.actions.view(-1, 1, 4, 4), 32, 5, 1.5)
    logits = module.classifier(rollout.observations["images"] * masks)
    expected = F.cross_entropy(logits, rollout.observations["labels"], reduction="none")
    torch.testing.assert_close(rollout.environment_loss, expected)
    torch.testing.assert_close(rollout.rewards, expected.detach() * (-1 if sign == "cooperative" else 1))


def test_log_probs_are_the_beta_density_of_each_cell() -> None:
    module = noise_mask().eval()
    rollout = module.act(batch(2))
    alpha, beta = rollout.observations["log_alpha"].exp(), rollout.observations["log_beta"].exp()
    evaluation = module.evaluate_actions(rollout)
    torch.testing.assert_close(evaluation.log_probs, Beta(alpha, beta).log_prob(rollout.actions))
    torch.testing.assert_close(evaluation.entropy, Beta(alpha, beta).entropy())
    assert evaluation.values is None


def test_evaluating_again_gives_the_same_numbers_with_a_fresh_graph() -> None:
    module = noise_mask()
    rollout = module.act(batch(3))
    shuffled = rollout.detach().select(torch.tensor([4, 1, 2, 0, 5, 3]))
    evaluation = module.evaluate_actions(shuffled)
    expected = module.evaluate_actions(rollout).log_probs[[4, 1, 2, 0, 5, 3]]
    torch.testing.assert_close(evaluation.log_probs, expected, atol=1e-4, rtol=1e-4)
    assert evaluation.log_probs.requires_grad


def test_normalised_masks_keep_the_mean() -> None:
    masks = noise_mask(mask_normalisation="unit_mean").render_masks(torch.rand(3, 16), 32)
    torch.testing.assert_close(masks.mean(dim=(1, 2, 3)), torch.ones(3))


def test_deviation_of_a_masks_pixels() -> None:
    masks = torch.rand(3, 1, 9, 9) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(deviation(masks), masks.flatten(1).std(dim=1))


class MaskMeanReward(NoiseMaskPretraining):
    """Bright masks are good: the best policy is known."""

    def reward(self, rollout: Rollout) -> Rollout:
        return super().reward(rollout).replace(rewards=rollout.actions.mean(dim=1))


def expected_cell(module: NoiseMaskPretraining) -> float:
    images, _ = batch(8)
    return float(module.draw_masks(images)[1].mean())


def test_reinforce_learns_what_is_rewarded() -> None:
    options: dict[str, Any] = {"num_classes": 3, "grid": 4, "kernel_size": 1, "decay": 0.0, "masks_per_image": 4}
    module = MaskMeanReward(
        "test_resnet", "test_resnet", **options, policy_optimizer=partial(torch.optim.Adam, lr=1e-2)
    )
    before = expected_cell(module)
    fit(module, ReinforceUpdate(loss_aggregation="seq_sum"), steps=40, images=8)
    assert expected_cell(module) > before + 0.15


def test_random_masks_need_no_policy() -> None:
    module = noise_mask(objective="random")
    before = parameters(module.classifier)
    fit(module, EnvironmentUpdate())
    assert set(module.networks()) == {"classifier"}
    assert not torch.equal(parameters(module.classifier), before)


def test_official_objective_steps_both_networks_and_logs_its_hidden_factor() -> None:
    module = noise_mask(objective="official", masks_per_image=1, decay=0.9)
    assert module.policy is not None
    before = parameters(module.policy), parameters(module.classifier)
    trainer = fit(module, EnvironmentUpdate())
    assert not torch.equal(parameters(module.policy), before[0])
    assert not torch.equal(parameters(module.classifier), before[1])
    assert trainer.callback_metrics["update/classifier_lr_factor"] > 2.5  # about log 16 = 2.8


UPDATES = [PPOUpdate(epochs=2, advantage_estimator="leave_one_out", kl_coef=0.0), ReinforceUpdate()]


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("filtered", [True, False])
def test_any_update_and_filter_works_on_masks(update: Callback, filtered: bool) -> None:
    module = noise_mask(masks_per_image=4)
    assert module.policy is not None
    before = parameters(module.policy), parameters(module.classifier)
    callbacks = [RolloutMetrics(), *([Filtration("best_worst", keep=2)] if filtered else []), update]
    trainer = fit(module, *callbacks)
    assert not torch.equal(parameters(module.policy), before[0])
    assert not torch.equal(parameters(module.classifier), before[1])
    if filtered:
        assert trainer.callback_metrics["filter/rows_kept"] == 8


def test_classifier_steps_once_an_iteration_however_often_the_policy_does() -> None:
    module = noise_mask(classifier_optimizer=torch.optim.Adam)
    update = PPOUpdate(epochs=3, minibatch_size=4, advantage_estimator="leave_one_out", kl_coef=0.0)
    trainer = fit(module, update, steps=2)
    steps = [int(next(iter(optimizer.state.values()))["step"]) for optimizer in trainer.optimizers]
    assert steps == [2 * 3 * 2, 2]  # iterations x epochs x minibatches, and iterations


@pytest.mark.parametrize(
    "update",
    [
        lambda size: PPOUpdate(advantage_estimator="leave_one_out", kl_coef=0.0, microbatch_size=size),
        lambda size: ReinforceUpdate(microbatch_size=size),
    ],
)
def test_microbatches_share_the_graph_of_the_masks(update: Callable[[int | None], Callback]) -> None:
    """The policy saw all images in one pass of its batch norms; its gradient gathers there from every microbatch."""
    learned = []
    for size in (None, 2):
        torch.manual_seed(5)
        module = noise_mask(masks_per_image=4, policy_optimizer=partial(torch.optim.SGD, lr=1.0))
        assert module.policy is not None
        fit(module, update(size), steps=1)
        learned.append((parameters(module.policy), parameters(module.classifier)))
    torch.testing.assert_close(learned[0], learned[1], atol=1e-6, rtol=1e-5)


def test_acting_moves_the_running_average_and_evaluating_does_not() -> None:
    module = noise_mask(decay=0.9)
    assert module.policy is not None
    before = module.policy.base_alpha.clone()
    rollout = module.act(batch())
    moved = module.policy.base_alpha.clone()
    module.evaluate_actions(rollout.detach())
    module.draw_masks(batch()[0])
    assert not torch.equal(moved, before)
    torch.testing.assert_close(module.policy.base_alpha, moved)


def test_filter_larger_than_k_is_refused_at_setup() -> None:
    with pytest.raises(ValueError, match="keep"):
        fit(noise_mask(), Filtration("best_worst", keep=3), ReinforceUpdate())


def test_update_must_fit_the_objective() -> None:
    with pytest.raises(MisconfigurationException, match="EnvironmentUpdate"):
        fit(noise_mask(objective="official"), ReinforceUpdate())
    with pytest.raises(MisconfigurationException, match="ReinforceUpdate"):
        fit(noise_mask(), EnvironmentUpdate())


def test_a_validation_before_training_leaves_a_matrix_that_training_can_use() -> None:
    """It runs in inference mode, and here no datamodule tells the image's size before."""
    module = noise_mask(objective="pathwise")
    loader = DataLoader(TensorDataset(*batch()), batch_size=4)
    quiet_trainer(EnvironmentUpdate(), steps=1).validate(module, loader, verbose=False)
    fit(module, EnvironmentUpdate(), steps=1)


def test_checkpoint_loads_without_the_data_that_told_the_classes(tmp_path: Path) -> None:
    data = LightningDataModule.from_datasets(TensorDataset(*batch()), batch_size=4)
    data.num_classes = 3  # type: ignore[attr-defined]
    module = noise_mask(num_classes=None, objective="official", masks_per_image=1)
    trainer = quiet_trainer(EnvironmentUpdate(), steps=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = NoiseMaskPretraining.load_from_checkpoint(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.state_dict(), module.state_dict())
    assert loaded.iteration == 1


def test_same_seed_same_run() -> None:
    runs = []
    for _ in range(2):
        seed_everything(3, verbose=False)
        module = noise_mask()
        fit(module, ReinforceUpdate())
        runs.append(parameters(module))
    torch.testing.assert_close(runs[0], runs[1], atol=0, rtol=0)


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*resnet18"):
        noise_mask(backbone="resnet81")


def test_unknown_number_of_classes() -> None:
    with pytest.raises(ValueError, match="set num_classes"):
        fit(noise_mask(num_classes=None), ReinforceUpdate())
    with pytest.raises(RuntimeError, match="not built yet"):
        _ = noise_mask(num_classes=None).classifier
