"""The steps that `noise_mask.py` measures, each in a process of its own that takes one step whenever it is told to."""

from __future__ import annotations

import io
import logging
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch import Tensor, nn

    from tamis.modules import NoiseMaskPretraining


class Sizes(NamedTuple):
    """Networks, images and masks of a measurement.

    Attributes:
        backbone: the classifier, by timm's name.
        policy_backbone: the policy's trunk.
        image: pixels a side.
        small_image: what the policy sees where it looks at a smaller image.
        batch: rows of the classifier in a step.
        classes: of the labels.
        grid: mask cells a side.
        kernel_size: of the mask's blur.
        sigma: of the blur.
    """

    backbone: str = "resnet18"
    policy_backbone: str = "resnet10t"
    image: int = 224
    small_image: int = 112
    batch: int = 32
    classes: int = 165
    grid: int = 64
    kernel_size: int = 13
    sigma: float = 6.0


PUBLISHED = Sizes()
QUICK = Sizes("test_resnet", "test_resnet", image=48, small_image=32, batch=8, classes=5, grid=8, kernel_size=5)


class Kind(NamedTuple):
    """What one step is.

    Attributes:
        networks: the classifier alone, or the policy as well.
        loop: ``bare`` calls the networks and the optimisers and nothing else, ``trainer`` is the way of every run.
        masks: an image; more than 1 is REINFORCE with a leave-one-out baseline, 1 the published objective.
        small_policy: the policy looks at a smaller image.
        small_networks: tiny networks at the same sizes, so that what is not a network can be told from noise.
        default_memory: glibc gives freed memory back and asks for it again, as it does by itself.
    """

    networks: Literal["classifier", "both"] = "both"
    loop: Literal["bare", "trainer"] = "trainer"
    masks: int = 1
    small_policy: bool = False
    small_networks: bool = False
    default_memory: bool = False


# Processes of a group live side by side and take turns; one group at a time, because every process holds its memory.
GROUPS = (
    {
        "classifier, bare": Kind("classifier", "bare"),
        "plain training": Kind("classifier"),
        "noise mask, policy at half size": Kind(small_policy=True),
    },
    {
        "both networks, bare": Kind(loop="bare"),
        "noise mask": Kind(),
        "noise mask, glibc's own thresholds": Kind(default_memory=True),
    },
    {
        "both networks, bare, half the images": Kind(loop="bare", masks=2),
        "two masks an image": Kind(masks=2),
    },
    {
        "small networks, bare": Kind(loop="bare", small_networks=True),
        "noise mask, small networks": Kind(small_networks=True),
    },
)


class Orders:
    """The loader of the measured loop: waits for an order, hands out the batch, and says what the step with it took.

    The clock runs from there until the loop asks for the next batch, so that nothing in between is missed. The batch is
    always the same one, in memory.

    Args:
        connection: brings True for another step and False for the end; takes the numbers of each step.
        batch: images and labels.
    """

    def __init__(self, connection: Connection, batch: tuple[Tensor, Tensor]) -> None:
        self.connection, self.batch = connection, batch
        self.notes: Counter[str] = Counter()  # what hooks count or clock during a step

    def __len__(self) -> int:
        """Without a length the trainer would ask for a batch ahead of its step."""
        return 1_000_000

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.connection.recv():
            self.notes.clear()
            system, started = _system_s(), time.process_time()
            yield self.batch
            numbers = {"cpu_s": time.process_time() - started, "system_s": _system_s() - system}
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            self.connection.send({**numbers, "peak_mb": peak_mb, **self.notes})


def _system_s() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def serve(kind: Kind, sizes: Sizes, connection: Connection) -> None:
    """Take steps of a kind as they are ordered; runs in a process of its own."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind.small_networks:
        sizes = sizes._replace(backbone="test_mambaout", policy_backbone="test_mambaout")
    rows = sizes.batch // kind.masks
    images = torch.randn(rows, 3, sizes.image, sizes.image)
    orders = Orders(connection, (images, torch.randint(sizes.classes, (rows,))))
    if kind.networks == "classifier":
        run_classifier(kind, sizes, orders)
    else:
        run_both(kind, sizes, orders)


def run_classifier(kind: Kind, sizes: Sizes, orders: Orders) -> None:
    """Plain training on clean images."""
    from torch.nn import functional as F

    from tamis.modules import ImageClassifier

    module = ImageClassifier(sizes.backbone, sizes.classes)
    if kind.loop == "trainer":
        fit(module, [], orders)
        return
    optimizer, network = module.configure_optimizers()["optimizer"], module.classifier
    for images, labels in orders:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()


def run_both(kind: Kind, sizes: Sizes, orders: Orders) -> None:
    """The noise mask, or its two networks without it."""
    from tamis.callbacks import EnvironmentUpdate, ReinforceUpdate, RolloutMetrics

    module = noise_mask(sizes, kind.masks, kind.small_policy)
    if kind.loop == "bare":
        run_bare(module, kind.masks, orders)
        return
    watch(module, orders.notes)
    update = EnvironmentUpdate() if kind.masks == 1 else ReinforceUpdate()
    fit(module, [RolloutMetrics(), update], orders)


def noise_mask(sizes: Sizes, masks: int = 1, small_policy: bool = False) -> NoiseMaskPretraining:
    """With the released code's settings, or its policy gradient proper where there is more than one mask an image."""
    from tamis.modules import NoiseMaskPretraining

    return NoiseMaskPretraining(
        backbone=sizes.backbone,
        policy_backbone=sizes.policy_backbone,
        num_classes=sizes.classes,
        grid=sizes.grid,
        kernel_size=sizes.kernel_size,
        sigma=sizes.sigma,
        masks_per_image=masks,
        objective="official" if masks == 1 else "reinforce",
        policy_image_size=sizes.small_image if small_policy else None,
    )


def run_bare(module: NoiseMaskPretraining, masks: int, orders: Orders) -> None:
    """Forward, backward and optimiser steps of the same networks on as many rows, with losses that cost nothing."""
    from torch.nn import functional as F

    optimizers = module.configure_optimizers()[0]
    policy: Any = module.policy
    rows, targets = (tensor.repeat_interleave(masks, dim=0) for tensor in orders.batch)
    for images, _ in orders:
        for optimizer in optimizers:
            optimizer.zero_grad()
        features = policy.trunk(images)
        loss = policy.alpha_head(features).mean() + policy.beta_head(features).mean()
        (loss + F.cross_entropy(module.classifier(rows), targets)).backward()
        for optimizer in optimizers:
            optimizer.step()


def watch(module: NoiseMaskPretraining, notes: Counter[str]) -> None:
    """Counts the evaluations of each head, and clocks what the module hands to the logger."""
    policy: Any = module.policy
    heads: dict[str, nn.Module] = {"alpha_head": policy.alpha_head, "beta_head": policy.beta_head}
    for name, head in heads.items():
        head.register_forward_hook(lambda *_, name=name: notes.update({name: 1}))
    log = module.log

    def clocked(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - whatever `log` takes
        started = time.process_time()
        log(*arguments, **options)
        notes["log_s"] += time.process_time() - started  # type: ignore[assignment] # a Counter adds floats as well

    object.__setattr__(module, "log", clocked)


def fit(module: LightningModule, callbacks: list[Any], orders: Orders) -> None:
    """The way of every run: the trainer, its logger, its hooks."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as logs, redirect_stdout(io.StringIO()):
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=CSVLogger(logs),
            log_every_n_steps=1,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, orders)
