"""The twin is the run that never learns, the diagnostics leave the training alone, and the verdict is what they say."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, MaskDiagnostics, PPOUpdate, ReinforceUpdate
from tamis.callbacks.mask_diagnostics import Measurement, verdict
from tamis.callbacks.mask_rewards import HeldOutImages, another_image, mask_rewards
from tamis.functional import Difference
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.noise_policy import MaskDistribution
from tamis.rollout import Rollout

pytestmark = pytest.mark.filterwarnings("ignore:The mask policy at iteration")
SLOW = partial(torch.optim.SGD, lr=0.0, momentum=0.9, weight_decay=1e-4)
FAST = partial(torch.optim.Adam, lr=1e-2)


def noise_mask(kind: type[NoiseMaskPretraining] = NoiseMaskPretraining, **options: Any) -> NoiseMaskPretraining:
    settings: dict[str, Any] = {
        "backbone": "test_resnet",
        "policy_backbone": "test_resnet",
        "num_classes": 3,
        "grid": 4,
        "kernel_size": 5,
        "sigma": 1.5,
        "policy_optimizer": FAST,
    }
    return kind(**(settings | options))


def data(images: int = 12) -> DataLoader[Any]:
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(pixels, torch.arange(images) % 3), batch_size=4)


def small(**options: Any) -> MaskDiagnostics:
    settings: dict[str, Any] = {"images": 8, "draws": 2, "gradient_draws": 4, "gradient_images": 4}
    return MaskDiagnostics(**(settings | options))


def trainer_of(folder: Path, *callbacks: Callback, epochs: int = 1, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "default_root_dir": folder,
        "max_epochs": epochs,
        "accelerator": "cpu",
        "callbacks": list(callbacks),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(settings | options))


def fit(
    folder: Path, module: NoiseMaskPretraining, *callbacks: Callback, epochs: int = 1, **options: Any
) -> dict[str, float]:
    trainer = trainer_of(folder, *callbacks, epochs=epochs, **options)
    trainer.fit(module, data(), data(16))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(first, second, atol=0, rtol=0)


# The twin

RUNS: list[tuple[str, dict[str, Any], Callable[[], Callback]]] = [
    ("reinforce", {}, ReinforceUpdate),
    ("reinforce", {}, lambda: PPOUpdate(epochs=2, minibatch_size=4, advantage_estimator="leave_one_out", kl_coef=0.0)),
    ("official", {"masks_per_image": 1, "policy_image_size": 16}, EnvironmentUpdate),
    ("pathwise", {"decay": 0.0}, EnvironmentUpdate),
]


@pytest.mark.parametrize(("objective", "options", "update"), RUNS)
def test_twin_is_the_policy_of_a_run_with_learning_rate_zero(
    tmp_path: Path, objective: Any, options: dict[str, Any], update: Callable[[], Callback]
) -> None:
    diagnostics = small(gradient_draws=0)
    policies = []
    for optimizer, callbacks in ((FAST, [diagnostics]), (SLOW, [])):
        seed_everything(3, verbose=False)
        module = noise_mask(objective=objective, policy_optimizer=optimizer, **options)
        fit(tmp_path, module, *callbacks, update(), epochs=2)
        assert module.policy is not None
        policies.append(module.policy.state_dict())
    assert diagnostics.twin is not None
    assert_equal(diagnostics.twin.state_dict(), policies[1])
    assert any(not torch.equal(policies[0][name], policies[1][name]) for name in policies[1])  # the first one learned


def test_a_policy_that_never_learns_is_its_twin_and_is_told_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cannot be told from a policy that never learned"):
        metrics = fit(tmp_path, noise_mask(policy_optimizer=SLOW), small(), ReinforceUpdate())
    assert metrics["val/learned_minus_twin"] == metrics["val/learned_minus_twin_z"] == 0.0
    assert metrics["val/reward_learned"] == metrics["val/reward_twin"]


@pytest.mark.parametrize(("objective", "options", "update"), RUNS[1:])
def test_training_is_the_same_with_and_without(
    tmp_path: Path, objective: Any, options: dict[str, Any], update: Callable[[], Callback]
) -> None:
    states, logged = [], []
    for callbacks in ([], [small()]):
        seed_everything(5, verbose=False)
        module = noise_mask(objective=objective, **options)
        logged.append(fit(tmp_path, module, *callbacks, update(), epochs=2))
        states.append(module.state_dict())
    assert_equal(states[0], states[1])
    same = [name for name in logged[0] if not name.startswith("timing/")]
    assert {name: logged[1][name] for name in same} == {name: logged[0][name] for name in same}


def test_resumed_run_measures_against_the_first_twin(tmp_path: Path) -> None:
    whole, halves = small(), [small(), small()]
    seed_everything(7, verbose=False)
    fit(tmp_path, noise_mask(), whole, ReinforceUpdate(), epochs=2)
    seed_everything(7, verbose=False)
    trainer = trainer_of(tmp_path, halves[0], ReinforceUpdate())
    trainer.fit(noise_mask(), data(), data(16))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    seed_everything(8, verbose=False)
    trainer = trainer_of(tmp_path, halves[1], ReinforceUpdate(), epochs=2)
    trainer.fit(noise_mask(), data(), data(16), ckpt_path=tmp_path / "half.ckpt")
    assert whole.twin is not None
    assert halves[1].twin is not None
    assert_equal(whole.twin.state_dict(), halves[1].twin.state_dict())


def test_checkpoint_without_a_twin_says_so(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, ReinforceUpdate())
    trainer.fit(noise_mask(), data(), data())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    trainer = trainer_of(tmp_path, small(), ReinforceUpdate(), epochs=2)
    with pytest.warns(UserWarning, match="no twin in this checkpoint.* after 3 iterations"):
        trainer.fit(noise_mask(), data(), data(), ckpt_path=tmp_path / "plain.ckpt")


# Rewards of masks on held-out images


class DarkMasksEarn(NoiseMaskPretraining):
    """The cost of a mask is its mean cell, so that the best policy and every reward are known."""

    def reward(self, rollout: Rollout) -> Rollout:
        return super().reward(rollout).replace(rewards=-rollout.actions.mean(dim=1))

    def masked_cross_entropy(self, images: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
        return cells.mean(dim=1) + 0.0 * images.mean()


def certain(level: Tensor) -> MaskDistribution:
    """``[B, 16]`` Beta cells with mean ``level`` and as little spread as there is."""
    total = 2 * math.exp(5.0)
    level = level.unsqueeze(1).expand(-1, 16)
    return MaskDistribution((level * total).log(), ((1 - level) * total).log())


def test_rewards_of_each_origin() -> None:
    """Image i has cells about levels[i]; the reward is minus their mean."""
    levels = torch.tensor([0.2, 0.4, 0.6, 0.8])
    rewards = mask_rewards(
        noise_mask(DarkMasksEarn),
        certain(levels),
        certain(levels.flip(0)),
        torch.zeros(4, 3, 8, 8),
        torch.zeros(4),
        50,
        0,
        3,
    )
    torch.testing.assert_close(rewards["learned"], -levels, atol=0.01, rtol=0)
    torch.testing.assert_close(rewards["twin"], -levels.flip(0), atol=0.01, rtol=0)
    torch.testing.assert_close(rewards["random"], torch.full((4,), -0.5), atol=0.04, rtol=0)
    torch.testing.assert_close(rewards["shuffled"], -levels[another_image(4, 0)], atol=0.01, rtol=0)


def test_rewards_are_the_cross_entropy_of_a_slow_loop_and_turn_for_an_adversary() -> None:
    images, labels = torch.randn(5, 3, 32, 32), torch.arange(5) % 3
    flat = MaskDistribution(torch.randn(5, 16), torch.randn(5, 16))
    found = {}
    for sign in ("cooperative", "adversarial"):
        torch.manual_seed(0)
        module = noise_mask(sign=sign).eval()
        found[sign] = mask_rewards(module, flat, flat, images, labels, 3, 11, rows_at_once=2)["learned"]
    torch.manual_seed(11)
    expected = torch.empty(5)
    for rows in ([0, 1], [2, 3], [4]):
        drawn = [
            module.masked_cross_entropy(images[rows], labels[rows], flat.select(torch.tensor(rows)).sample())
            for _ in range(3)
        ]
        expected[rows] = sum(drawn).detach() / 3  # type: ignore[union-attr]
    torch.testing.assert_close(found["adversarial"], expected)
    torch.testing.assert_close(found["cooperative"], -expected)


def test_everyone_gets_anothers_distribution() -> None:
    for count in (2, 3, 50):
        others = another_image(count, seed=4)
        assert sorted(others.tolist()) == list(range(count))
        assert (others != torch.arange(count)).all()


@pytest.mark.parametrize(
    ("wanted", "batches", "expected"),
    [
        (4, 4, [0, 8, 16, 24]),  # one of each
        (3, 4, [0, 8, 16]),
        (7, 4, [0, 7, 8, 15, 16, 23, 24]),
        (99, 4, list(range(32))),
        (10, math.inf, [0, 1, 2, 3, 4, 5, 6, 7, 8, 15]),  # nobody knows how many will come
    ],
)
def test_held_out_images_are_spread_over_the_split(wanted: int, batches: float, expected: list[int]) -> None:
    held_out = HeldOutImages(wanted, batches)
    for number, labels in enumerate(torch.arange(32).split(8)):
        held_out.add(labels.view(-1, 1, 1, 1).float(), labels, number)
    images, labels = held_out.all()
    assert labels.tolist() == expected
    assert images.flatten().tolist() == expected
    assert held_out.rows_at_once == 8


def test_the_same_weights_give_the_same_numbers(tmp_path: Path) -> None:
    module, diagnostics = noise_mask(policy_optimizer=SLOW, classifier_optimizer=SLOW, average=1.0), small()
    trainer = trainer_of(tmp_path, diagnostics, ReinforceUpdate())
    trainer.fit(module, data(), data(16))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        (metrics,) = trainer.validate(module, data(16), verbose=False)
        found.append({name: value for name, value in metrics.items() if "reward" in name or "cosine" in name})
    assert found[0] == found[1]
    assert len(found[0]) == 5


# What is logged, and the verdict

NAMES = {
    *(f"val/reward_{origin}" for origin in ("learned", "twin", "random", "shuffled")),
    *(f"val/learned_minus_{origin}{end}" for origin in ("twin", "random", "shuffled") for end in ("", "_z")),
    "val/alpha_spread",
    "val/beta_spread",
    "val/gradient_cosine",
}


@pytest.mark.parametrize(("objective", "extra"), [("reinforce", set()), ("official", {"val/gradient_bias_cosine"})])
def test_names_in_the_log_and_in_the_document(tmp_path: Path, objective: Any, extra: set[str]) -> None:
    update = ReinforceUpdate() if objective == "reinforce" else EnvironmentUpdate()
    logged = []
    for callbacks in ([], [small()]):
        logger = CSVLogger(str(tmp_path / f"{len(callbacks)}"), name="", version="")
        fit(tmp_path, noise_mask(objective=objective), *callbacks, update, logger=logger, log_every_n_steps=1)
        with Path(logger.log_dir, "metrics.csv").open() as file:
            logged.append(set(next(csv.reader(file))))
    assert logged[1] - logged[0] == NAMES | extra
    document = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `([^`]+)` \|", document, re.MULTILINE)) >= NAMES | extra


def test_numbers_fit_each_other(tmp_path: Path) -> None:
    metrics = fit(tmp_path, noise_mask(), small(), ReinforceUpdate(), epochs=3)
    for origin in ("twin", "random", "shuffled"):
        difference = metrics["val/reward_learned"] - metrics[f"val/reward_{origin}"]
        assert metrics[f"val/learned_minus_{origin}"] == pytest.approx(difference, abs=1e-5)
    assert abs(metrics["val/gradient_cosine"]) <= 1


def test_spread_over_images_is_that_of_the_distributions(tmp_path: Path) -> None:
    module = noise_mask()
    metrics = fit(tmp_path, module, small(images=16), ReinforceUpdate())
    assert module.policy is not None
    pixels = torch.cat([batch[0] for batch in data(16)])
    log_alpha, log_beta = module.policy.eval()(pixels)
    assert metrics["val/alpha_spread"] == pytest.approx(float(log_alpha.std(dim=0).mean()), rel=1e-4)
    assert metrics["val/beta_spread"] == pytest.approx(float(log_beta.std(dim=0).mean()), rel=1e-4)


def test_a_policy_that_learns_is_told_from_its_twin(tmp_path: Path) -> None:
    diagnostics = small(images=16, gradient_draws=8)
    module = noise_mask(DarkMasksEarn, decay=0.0, masks_per_image=4, seed=1)
    metrics = fit(tmp_path, module, diagnostics, ReinforceUpdate(loss_aggregation="seq_sum"), epochs=10)
    assert diagnostics.last is not None
    assert diagnostics.last.iteration == 30
    assert diagnostics.last.differences["twin"].z > 3
    assert metrics["val/learned_minus_twin_z"] == pytest.approx(diagnostics.last.differences["twin"].z, rel=1e-5)
    assert metrics["val/gradient_cosine"] > 0.5
    assert verdict(diagnostics.last, 3.0)[0]


@pytest.mark.parametrize(
    ("twin_z", "random_z", "learned", "words"),
    [
        (3.2, 4.0, True, "It has learned what it is rewarded for"),
        (2.9, 9.0, False, "cannot be told from a policy that never learned"),
        (-2.9, 9.0, False, "masks_per_image of 2 or more"),
        (math.nan, 9.0, False, "cannot be told from a policy that never learned"),
        (-3.5, 9.0, False, "earns less than if it had never learned"),
        (5.0, -4.0, False, "earns less than random masks"),
        (5.0, 1.0, False, "cannot be told from random masks"),
        (5.0, math.nan, False, "cannot be told from random masks"),
    ],
)
def test_verdict(twin_z: float, random_z: float, learned: bool, words: str) -> None:
    differences = {
        "twin": Difference(0.01 * twin_z, 0.01, twin_z),
        "random": Difference(0.01 * random_z, 0.01, random_z),
    }
    found = verdict(Measurement(120, differences), 3.0)
    assert found[0] == learned
    assert words in found[1]
    assert "iteration 120" in found[1]
    if twin_z == 3.2:
        assert "+0.032 ± 0.01 nats (z = +3.2)" in found[1]


# Errors


@pytest.mark.parametrize("objective", ["random", "none"])
def test_objectives_without_a_policy_are_refused(tmp_path: Path, objective: Any) -> None:
    with pytest.raises(MisconfigurationException, match=f"{objective}.* has none; remove it"):
        fit(tmp_path, noise_mask(objective=objective), small(), EnvironmentUpdate())


def test_runs_that_could_not_measure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="not ImageClassifier"):
        trainer_of(tmp_path, small()).fit(ImageClassifier("test_resnet", num_classes=3), data())
    with pytest.raises(MisconfigurationException, match="held-out images"):
        trainer_of(tmp_path, small(), ReinforceUpdate()).fit(noise_mask(), data())
    with pytest.warns(UserWarning, match="no validation ran"):
        fit(tmp_path, noise_mask(), small(), ReinforceUpdate(), check_val_every_n_epoch=5)


@pytest.mark.parametrize(
    "options", [{"images": 1}, {"draws": 0}, {"gradient_draws": 2}, {"gradient_draws": 5}, {"z_threshold": 0.0}]
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MaskDiagnostics(**options)
