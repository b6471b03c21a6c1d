"""The network behind the noise mask: an image in, the Beta distribution of each mask cell out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Beta, kl_divergence
from torch.nn import functional as F

from .backbones import build_backbone, to_channels_last

#: Cells closer to 0 or 1 than this have densities that fp32 cannot tell from infinity.
CELL_MARGIN = 1e-6
#: |log alpha|, |log beta| <= 5: beyond it lgamma loses its precision and the log-density its finite values.
LOG_LIMIT = 5.0


class MaskDistribution(NamedTuple):
    """Independent Beta distributions, one a mask cell.

    Args:
        log_alpha: ``[B, M]``, fp32.
        log_beta: ``[B, M]``, fp32.
    """

    log_alpha: Tensor
    log_beta: Tensor

    def beta(self) -> Beta:
        """As torch's distribution; the parameters are already known to be valid."""
        return Beta(self.log_alpha.exp(), self.log_beta.exp(), validate_args=False)

    def sample(self) -> Tensor:
        """``[B, M]`` cells in (0, 1), without a gradient: the policy learns through their log-density alone."""
        return self.beta().sample().clamp(CELL_MARGIN, 1 - CELL_MARGIN)

    def rsample(self) -> Tensor:
        """``[B, M]`` cells in (0, 1) that carry their gradient with respect to the parameters (pathwise)."""
        return self.beta().rsample().clamp(CELL_MARGIN, 1 - CELL_MARGIN)

    def log_prob(self, cells: Tensor) -> Tensor:
        """``[B, M]`` log-density of each cell, in fp32 whatever the precision around it."""
        with torch.autocast(cells.device.type, enabled=False):
            log_probs: Tensor = self.beta().log_prob(cells.float())
            return log_probs

    def entropy(self) -> Tensor:
        """``[B, M]`` entropy of each cell in nats, in fp32 whatever the precision around it."""
        with torch.autocast(self.log_alpha.device.type, enabled=False):
            entropy: Tensor = self.beta().entropy()
            return entropy

    def divergence(self, other: MaskDistribution) -> Tensor:
        """``[B, M]`` KL divergence of each cell from the other distribution's, in nats; exact, in fp32."""
        with torch.autocast(self.log_alpha.device.type, enabled=False):
            return kl_divergence(self.beta(), other.beta())

    def mean(self) -> Tensor:
        """``[B, M]`` expected cells."""
        return torch.sigmoid(self.log_alpha - self.log_beta)

    def select(self, rows: Tensor) -> MaskDistribution:
        """The distributions of the given rows, in that order."""
        return MaskDistribution(self.log_alpha[rows], self.log_beta[rows])


class NoisePolicy(nn.Module):
    """Trunk and two heads that give log alpha and log beta of every cell, mixed with their running averages.

    ``log alpha = decay * base_alpha + (1 - decay) * head(x)`` and, once a training step,
    ``base_alpha = average * base_alpha + (1 - average) * mean_batch head(x)``; the same for beta. That is the released
    code's recursion, with its constants 0.9 and 0.99 as options and its averages as buffers. Its two faults are not
    kept: each head ran twice a step, and every rank averaged its own images only.

    Args:
        backbone: timm name of the trunk, randomly initialised.
        grid: G, cells a side; M = G * G.
        decay: share of the running average in the parameters; 0 leaves only the heads, and the averages are kept for
            `average_distribution`.
        average: memory of the running average.
        image_size: the trunk sees images resized to this many pixels a side (a cheaper policy); ``None`` as they are.
        channels_last: keep the trunk and its images in that memory format.
    """

    base_alpha: Tensor
    base_beta: Tensor

    def __init__(
        self,
        backbone: str = "resnet10t",
        grid: int = 64,
        decay: float = 0.9,
        average: float = 0.99,
        image_size: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if not (0 <= decay < 1 and 0 <= average <= 1):
            raise ValueError(f"decay must lie in [0, 1) and average in [0, 1], got decay={decay}, average={average}")
        self.decay, self.average, self.image_size = decay, average, image_size
        self.channels_last = channels_last
        self.trunk = build_backbone(backbone, num_classes=0, channels_last=channels_last)
        # Of the pooled features; num_features leaves out the extra layer that MobileNets have after pooling.
        width = int(self.trunk.head_hidden_size)  # type: ignore[arg-type] # timm's own attribute
        self.alpha_head = _head(width, grid * grid)
        self.beta_head = _head(width, grid * grid)
        self.register_buffer("base_alpha", torch.rand(1, grid * grid))
        self.register_buffer("base_beta", torch.rand(1, grid * grid))

    def forward(self, images: Tensor, update_average: bool = False) -> MaskDistribution:
        """The mask distribution of each image.

        Args:
            images: ``[B, 3, S, S]`` normalised.
            update_average: move the running averages afterwards (once a training step).

        Raises:
            ValueError: for a single image in training mode, which batch normalisation cannot normalise.
        """
        if self.training and images.shape[0] < 2:
            raise ValueError(
                "the policy's batch normalisation needs at least 2 different images a step, got 1; "
                "raise the batch size or the update's minibatch_size"
            )
        if self.image_size is not None:
            images = F.interpolate(images, size=self.image_size, mode="bilinear", antialias=True)
        features = self.trunk(to_channels_last(images) if self.channels_last else images)
        alpha, beta = self.alpha_head(features).float(), self.beta_head(features).float()
        distribution = MaskDistribution(self._mix(self.base_alpha, alpha), self._mix(self.base_beta, beta))
        if update_average:
            self._move_average(self.base_alpha, alpha)
            self._move_average(self.base_beta, beta)
        return distribution

    @torch.no_grad()
    def evaluated(self, images: Tensor) -> MaskDistribution:
        """The mask distribution of each image in evaluation mode; the mode that the policy is in comes back."""
        training = self.training
        distribution: MaskDistribution = self.eval()(images)
        self.train(training)
        return distribution

    def average_distribution(self) -> MaskDistribution:
        """``[1, M]`` the distribution of the running averages alone, a constant."""
        limits = {"min": -LOG_LIMIT, "max": LOG_LIMIT}
        return MaskDistribution(self.base_alpha.clamp(**limits), self.base_beta.clamp(**limits))

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Inside, a forward pass in training mode leaves the batch norms' running statistics alone."""
        norms = [layer for layer in self.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        tracking = [layer.track_running_stats for layer in norms]
        for layer in norms:
            layer.track_running_stats = layer.track_running_stats and not self.training
        try:
            yield
        finally:
            for layer, tracked in zip(norms, tracking, strict=True):
                layer.track_running_stats = tracked

    def _mix(self, base: Tensor, head: Tensor) -> Tensor:
        mixed = head if self.decay == 0 else self.decay * base + (1 - self.decay) * head
        return mixed.clamp(-LOG_LIMIT, LOG_LIMIT)

    def _move_average(self, base: Tensor, head: Tensor) -> None:
        mean = head.detach().mean(dim=0, keepdim=True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        base.mul_(self.average).add_(mean, alpha=1 - self.average)


@contextmanager
def separate_draws(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Inside, random numbers are drawn (from ``seed``, if one is given) that training's own stream never notices."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _head(width: int, cells: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, cells),
    )
