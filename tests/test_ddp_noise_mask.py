"""Two processes train the noise mask that one trains: its masks, its averages and its weights, by every objective."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, Filtration, MaskDiagnostics, PolicyCallback, PPOUpdate, ReinforceUpdate
from tamis.modules import NoiseMaskPretraining, PolicyModule
from tamis.rollout import Rollout

from .ranks import Ranks

IMAGES, BATCH, K = 8, 4, 4
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
Run = tuple[dict[str, Any], Callable[[int], list[Callback]]]


def ppo(processes: int) -> list[Callback]:
    """Two passes of two minibatches each."""
    size = BATCH * K // 2 // processes
    return [PPOUpdate(epochs=2, minibatch_size=size, advantage_estimator="leave_one_out", kl_coef=0.0)]


#: Options of the module, and callbacks.
RUNS: dict[str, Run] = {
    "reinforce": ({}, lambda _: [ReinforceUpdate(scale_by_std=True, entropy_coef=0.01)]),
    "running_mean": ({}, lambda _: [ReinforceUpdate("running_mean", max_grad_norm=0.1)]),
    "adversarial": ({"sign": "adversarial"}, lambda _: [Filtration("best_random", keep=2), ReinforceUpdate()]),
    "ppo": ({"sign": "adversarial", "decay": 0.5, "policy_optimizer": partial(SGD, lr=0.005)}, ppo),
    "microbatches": ({}, lambda processes: [ReinforceUpdate(microbatch_size=BATCH * K // 2 // processes)]),
    "official": ({"objective": "official", "masks_per_image": 1}, lambda _: [EnvironmentUpdate()]),
    "official_divided": ({"objective": "official", "divide_lr_factor": True}, lambda _: [EnvironmentUpdate(1.0)]),
    "pathwise": ({"objective": "pathwise", "regulariser": "kl_to_average"}, lambda _: [EnvironmentUpdate()]),
    "random": ({"objective": "random"}, lambda _: [EnvironmentUpdate()]),
    "none": ({"objective": "none"}, lambda _: [EnvironmentUpdate()]),
}


class Cells(PolicyCallback):
    """Keeps what the policy drew and what the update is given, by the image's number in the batch of all ranks."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        self.drawn.append(rollout.actions.detach()[rollout.groups()])
        return rollout


def train(name: str, processes: int) -> dict[str, Any]:
    """Masks before and after filters, and weights, of two epochs; a rank has every other image of one order."""
    options, callbacks = RUNS[name]
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_classes": 3, "grid": 4, "kernel_size": 5, "sigma": 1.5, "masks_per_image": K}
    settings |= {"policy_optimizer": SGD, "classifier_optimizer": SGD}
    module = NoiseMaskPretraining("test_vit", "test_vit", **settings | options)
    if module.policy is not None:  # no network here knows what else is in its batch
        for head in (module.policy.alpha_head, module.policy.beta_head):
            for index, layer in enumerate(head):
                head[index] = nn.LayerNorm(layer.num_features) if isinstance(layer, nn.BatchNorm1d) else layer
    data = TensorDataset(torch.randn(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 3)
    drawn, kept = Cells(), Cells()
    *filters, update = callbacks(processes)
    trainer = quiet_trainer([drawn, *filters, kept, update], processes, max_epochs=2)
    mine = range(trainer.global_rank, IMAGES, processes)
    trainer.fit(module, DataLoader(torch.utils.data.Subset(data, mine), batch_size=BATCH // processes))
    return {"drawn": drawn.drawn, "kept": kept.drawn, "weights": module.state_dict()}


def quiet_trainer(callbacks: list[Callback], processes: int, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_what_one_process_does(ranks: Ranks, name: str) -> None:
    one, both = train(name, 1), ranks(train, name, 2)
    for drawn in ("drawn", "kept"):
        assert len(one[drawn]) == 4
        for step, whole in enumerate(one[drawn]):
            for rank in range(2):
                # Without a policy they are equal to the bit; else the networks' rounding is in them.
                tolerance = 0.0 if name in ("random", "none") else 1e-4
                torch.testing.assert_close(both[rank][drawn][step], whole[rank::2], atol=tolerance, rtol=tolerance)
    for key, weight in one["weights"].items():
        assert torch.equal(both[0]["weights"][key], both[1]["weights"][key]), key
        torch.testing.assert_close(both[0]["weights"][key], weight, atol=1e-5, rtol=1e-4, msg=key)


def train_with_diagnostics() -> dict[str, Tensor]:
    """An epoch with batch norms, the twin and its measurement, and what each rank's heads said."""
    torch.manual_seed(0)
    module = NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=3, grid=4, kernel_size=5, decay=0.9)
    policy, heads = module.policy, list[Tensor]()
    assert policy is not None
    start = policy.base_alpha.clone()
    policy.alpha_head.register_forward_hook(
        lambda head, _, output: heads.append(output.detach().mean(dim=0)) if head.training else None
    )
    data = TensorDataset(torch.randn(16, 3, 32, 32), torch.arange(16) % 3)
    diagnostics = MaskDiagnostics(images=8, draws=1, gradient_draws=4, gradient_images=4)
    trainer = quiet_trainer([diagnostics, ReinforceUpdate()], 2, max_epochs=1)
    loader = DataLoader(torch.utils.data.Subset(data, range(trainer.global_rank, 16, 2)), batch_size=4)
    trainer.fit(module, loader, loader)
    assert diagnostics.twin is not None
    assert diagnostics.last is not None
    return {
        "start": start,
        "heads": torch.stack(heads[1::2]),  # the twin, a copy with its hooks, looks at each batch first
        "average": policy.base_alpha,
        "policy": torch.cat([parameter.detach().flatten() for parameter in module.parameters()]),
        "twin": diagnostics.twin.base_alpha,
        "measured": torch.tensor([difference.mean for difference in diagnostics.last.differences.values()]),
    }


def test_averages_are_over_the_images_of_all_ranks(ranks: Ranks) -> None:
    both = ranks(train_with_diagnostics)
    steps = (both[0]["heads"] + both[1]["heads"]) / 2
    assert len(steps) == 2
    assert not torch.allclose(both[0]["heads"], both[1]["heads"])  # each rank has images of its own
    expected = 0.99 * (0.99 * both[0]["start"] + 0.01 * steps[0]) + 0.01 * steps[1]
    torch.testing.assert_close(both[0]["average"], expected)
    for name in ("average", "policy", "twin", "measured"):
        torch.testing.assert_close(both[0][name], both[1][name], atol=0, rtol=0)
