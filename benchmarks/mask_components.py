"""The parts of a noise-mask step that `noise_mask.py` measures, each beside another way to do the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from mask_steps import Sizes, noise_mask

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from tamis.modules import NoiseMaskPretraining


class Component(NamedTuple):
    """A part of the step, the way it is done, another way, and what was aimed at, in ms."""

    name: str
    way: str
    other: str
    aim: str = ""


MASKS, CELLS, HEADS = "masks of the drawn cells", "drawing the cells", "heads, forward"
OBJECTIVE, NORMS = "log-densities, objective, backward", "norms of both gradients"
POLICY, CLASSIFIER = "policy's optimiser", "classifier's optimiser"
# Of a quarter of the batch, forward and backward.
PASSES, TRUNK = "classifier, 1/4 batch", "policy's trunk, 1/4 batch"
RELEASED_SUM = "exp, sum, log, as released"
COMPONENTS = (
    Component(MASKS, "A m A^T", "interpolate, gaussian_blur", "at most 10"),
    Component(HEADS, "each once", "each twice, as released"),
    Component(CELLS, "Beta", "uniform"),
    Component(OBJECTIVE, "logsumexp", RELEASED_SUM),
    Component(POLICY, "the default", "not fused", "at most 10"),
    Component(CLASSIFIER, "the default", "not fused"),
    Component(NORMS, "get_total_norm", "clip_grad_norm_"),
    Component(PASSES, "fp32", "fp32, channels_last"),
    Component(TRUNK, "fp32", "fp32, channels_last"),
    Component(PASSES, "fp32", "bf16 autocast"),
)
Ways = dict[tuple[str, str], Callable[[], object]]


def serve(sizes: Sizes, connection: Connection) -> None:
    """Go once through every way of every component, in random order, whenever told to; sends the CPU ms of each."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    functions = ways(sizes)
    order, draw = list(functions), random.Random(0)
    while connection.recv():
        draw.shuffle(order)
        taken = {}
        for way in order:
            started = time.process_time()
            functions[way]()
            taken[way] = 1000 * (time.process_time() - started)
        connection.send(taken)


def ways(sizes: Sizes) -> Ways:
    """What is measured, by component and way, at the module's own sizes."""
    module = noise_mask(sizes)
    return of_masks(sizes) | of_objective(sizes) | of_heads(module, sizes) | of_updates(module) | of_passes(sizes)


def of_masks(sizes: Sizes) -> Ways:
    """From drawn cells to masks."""
    import torch
    from torch.nn import functional as F
    from torchvision.transforms.functional import gaussian_blur

    from tamis.functional import upsample_blur_matrix

    matrix = upsample_blur_matrix(sizes.grid, sizes.image, sizes.kernel_size, sizes.sigma)
    cells = torch.rand(sizes.batch, 1, sizes.grid, sizes.grid)

    def published() -> Tensor:
        blurred: Tensor = gaussian_blur(F.interpolate(cells, sizes.image), [sizes.kernel_size] * 2, [sizes.sigma] * 2)
        return blurred

    return {
        (MASKS, "A m A^T"): lambda: matrix @ cells @ matrix.T,
        (MASKS, "interpolate, gaussian_blur"): published,
    }


def of_objective(sizes: Sizes) -> Ways:
    """From the distribution's parameters to cells, and from cells to the published objective."""
    import torch

    from tamis.functional import official_noise_objective
    from tamis.modules.noise_policy import MaskDistribution

    # About the spread that the heads begin with.
    log_alpha, log_beta = (torch.randn(sizes.batch, sizes.grid**2).mul_(0.2).requires_grad_() for _ in range(2))
    distribution, fixed = MaskDistribution(log_alpha, log_beta), MaskDistribution(log_alpha.detach(), log_beta.detach())
    cells, cross_entropy = fixed.sample(), torch.tensor(5.0)

    def objective() -> Tensor:
        loss = official_noise_objective(distribution.beta().log_prob(cells), cross_entropy)
        loss.backward()
        return loss.detach()

    def released() -> Tensor:
        densities: Tensor = distribution.beta().log_prob(cells).exp()
        loss = (densities.sum(dim=1).log() * cross_entropy).mean()
        loss.backward()
        return loss.detach()

    return {
        (CELLS, "Beta"): fixed.sample,
        (CELLS, "uniform"): lambda: torch.rand_like(cells),
        (OBJECTIVE, "logsumexp"): objective,
        (OBJECTIVE, RELEASED_SUM): released,
    }


def of_heads(module: NoiseMaskPretraining, sizes: Sizes) -> Ways:
    """Both heads on the features of a batch, once and twice."""
    import torch

    policy: Any = module.policy
    features = policy.trunk(torch.randn(sizes.batch, 3, sizes.image, sizes.image)).detach()

    def evaluate(times: int) -> None:
        for head in (policy.alpha_head, policy.beta_head) * times:
            head(features)

    return {(HEADS, "each once"): lambda: evaluate(1), (HEADS, "each twice, as released"): lambda: evaluate(2)}


def of_updates(module: NoiseMaskPretraining) -> Ways:
    """What follows the backward pass: norms of the gradients and the optimisers' steps."""
    import torch
    from torch.nn.utils import clip_grad_norm_, get_total_norm

    networks = module.networks()
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter).mul_(1e-6)
    optimizers = dict(zip(networks, module.configure_optimizers()[0], strict=True))

    def unfused(name: str) -> Optimizer:
        settings = optimizers[name].defaults | {"fused": False, "foreach": False}
        optimizer: Optimizer = type(optimizers[name])(networks[name].parameters(), **settings)
        return optimizer

    def norms() -> list[Tensor]:
        return [get_total_norm(_gradients(network)) for network in networks.values()]

    def clipped() -> list[Tensor]:
        return [clip_grad_norm_(network.parameters(), float("inf")) for network in networks.values()]

    return {
        **_stepping(POLICY, optimizers["policy"], unfused("policy")),
        **_stepping(CLASSIFIER, optimizers["classifier"], unfused("classifier")),
        (NORMS, "get_total_norm"): norms,
        (NORMS, "clip_grad_norm_"): clipped,
    }


def _stepping(name: str, default: Optimizer, unfused: Optimizer) -> Ways:
    # Not the bound methods: a schedule wraps them, and does not keep its optimiser alive.
    return {(name, "the default"): lambda: default.step(), (name, "not fused"): lambda: unfused.step()}


def _gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def of_passes(sizes: Sizes) -> Ways:
    """Forward and backward of the bare networks: the layout of their memory, and half precision."""
    import torch

    from tamis.modules.backbones import build_backbone

    images = torch.randn(max(2, sizes.batch // 4), 3, sizes.image, sizes.image)
    functions: Ways = {}
    for name, backbone, classes in ((PASSES, sizes.backbone, sizes.classes), (TRUNK, sizes.policy_backbone, 0)):
        for layout, way in ((torch.contiguous_format, "fp32"), (torch.channels_last, "fp32, channels_last")):
            network: nn.Module = build_backbone(backbone, classes).to(memory_format=layout)
            functions[name, way] = partial(_there_and_back, network, images.to(memory_format=layout))
    classifier = build_backbone(sizes.backbone, sizes.classes)
    return functions | {(PASSES, "bf16 autocast"): partial(_there_and_back, classifier, images, half=True)}


def _there_and_back(network: nn.Module, images: Tensor, half: bool = False) -> None:
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = network(images).float().square().mean()
    loss.backward()
