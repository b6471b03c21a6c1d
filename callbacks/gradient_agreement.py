"""Whether the noise mask's policy gradient points anywhere: two halves of many mask draws, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from ..functional import beta_score, leave_one_out_baseline, split_half_cosine
from ..modules.noise_mask import NoiseMaskPretraining
from ..modules.noise_policy import MaskDistribution, NoisePolicy
from ..modules.policy import PolicyUpdate

#: What a mask's reward is compared with: the image's other masks, the batch's mean reward, or nothing.
Comparison = Literal["own_masks", "batch_mean", "nothing"]


class GradientAgreement(NamedTuple):
    """Split-half cosines over all of the policy's parameters.

    Args:
        signal: of what the reward (or cross-entropy) contributes to the gradient.
        bias: of the rest of it, which the objective ``official`` has and which is there at any constant reward;
            ``None`` for the other objectives.
    """

    signal: float
    bias: float | None


class _Half:
    """Sums over one half's draws of the gradient by log alpha and log beta: plain, and weighted by the draw's cost."""

    def __init__(self) -> None:
        self.draws, self.cost = 0, 0.0
        self.plain, self.weighted = torch.zeros(()), torch.zeros(())

    def add(self, gradient: Tensor, cost: float) -> None:
        """Of one draw: ``[2, B, M]``, and a number."""
        self.draws, self.cost = self.draws + 1, self.cost + cost
        self.plain = self.plain.to(gradient) + gradient
        self.weighted = self.weighted.to(gradient) + cost * gradient

    def covariance(self) -> Tensor:
        """``[2, B, M]`` sample covariance of cost and gradient over this half's own draws.

        With a mean cost of both halves in it, the halves would no longer be independent.
        """
        return (self.weighted - self.cost / self.draws * self.plain) / max(self.draws - 1, 1)


def comparison_of(trainer: Trainer, module: NoiseMaskPretraining) -> Comparison:
    """What this run's update compares a mask's reward with."""
    update = next(
        (callback for callback in trainer.callbacks if isinstance(callback, PolicyUpdate)),  # type: ignore[attr-defined]
        None,
    )
    baseline = getattr(update, "baseline", getattr(update, "advantage_estimator", None))
    if module.masks_per_image > 1 and baseline in ("leave_one_out", "group_mean"):
        return "own_masks"
    return "nothing" if baseline == "none" else "batch_mean"


def gradient_agreement(
    module: NoiseMaskPretraining,
    images: Tensor,
    labels: Tensor,
    draws: int,
    comparison: Comparison,
    total: Callable[[Tensor], Tensor] = lambda part: part,
) -> GradientAgreement:
    """Draw masks again and again for the same images under fixed networks, and compare the even draws with the odd.

    A draw is a whole step's: K masks an image. Its gradient with respect to log alpha and log beta is summed up in its
    half, and because what lies before them is the same in all draws, each half goes back through the policy only once.
    The update's filters, clipping and regularisers are left out: the reward's signal is in question. Networks are left
    in the mode they are in (evaluation, in `MaskDiagnostics`), and no ``grad`` is touched.

    Args:
        module: with a policy.
        images: ``[B, 3, S, S]`` normalised, B at least 2.
        labels: ``[B]``.
        draws: even, at least 4.
        comparison: see `comparison_of`; only for the objective ``reinforce``.
        total: sums a tensor over all ranks.
    """
    policy = module.policy
    if policy is None:
        raise ValueError(f"objective {module.objective!r} has no policy, and so no gradient")
    # Validation runs in inference mode, whose tensors no graph may hold; a copy made outside it is an ordinary one.
    with torch.inference_mode(False), torch.enable_grad():
        images, labels = images.clone(), labels.clone()
        distribution = policy(images)
        fixed = MaskDistribution(distribution.log_alpha.detach(), distribution.log_beta.detach())
        halves = _Half(), _Half()
        for draw in range(draws):
            halves[draw % 2].add(*draw_gradient(module, fixed, images, labels, comparison))
        if module.objective != "official":
            signal = _agreement(policy, distribution, [half.plain for half in halves], total)
            return GradientAgreement(signal, None)
        signal = _agreement(policy, distribution, [half.covariance() for half in halves], total)
        bias = _agreement(policy, distribution, [half.cost * half.plain for half in halves], total)
        return GradientAgreement(signal, bias)


def draw_gradient(
    module: NoiseMaskPretraining, fixed: MaskDistribution, images: Tensor, labels: Tensor, comparison: Comparison
) -> tuple[Tensor, float]:
    """One draw's gradient of what the policy minimises, by log alpha and by log beta.

    Of ``official`` it is that of the mean log-sum-exp, still to be multiplied by the mean cross-entropy.

    Returns:
        ``[2, B, M]`` and the draw's mean cross-entropy.
    """
    if module.objective == "pathwise":
        return _pathwise_gradient(module, fixed, images, labels)
    cells = [fixed.sample() for _ in range(module.masks_per_image)]
    with torch.no_grad():
        costs = torch.stack([module.masked_cross_entropy(images, labels, mask) for mask in cells])  # [K, B]
    if module.objective == "official":
        # d logsumexp_j(log p_j) is the densities' softmax times d log p_j.
        weights = [fixed.beta().log_prob(mask).softmax(dim=1) for mask in cells]
    else:
        rewards = torch.stack([module.reward_of(cost) for cost in costs])
        weights = [-advantage.unsqueeze(1) for advantage in _advantages(rewards, comparison)]
    scores = [torch.stack(beta_score(mask, *fixed)) for mask in cells]
    gradient = torch.stack([weight * score for weight, score in zip(weights, scores, strict=True)]).sum(dim=0)
    return gradient / costs.numel(), float(costs.mean())


def _advantages(rewards: Tensor, comparison: Comparison) -> Tensor:
    """``[K, B]`` rewards less what they are compared with."""
    if comparison == "own_masks":
        return rewards - leave_one_out_baseline(rewards.T).T
    return rewards - rewards.mean() if comparison == "batch_mean" else rewards


def _pathwise_gradient(
    module: NoiseMaskPretraining, fixed: MaskDistribution, images: Tensor, labels: Tensor
) -> tuple[Tensor, float]:
    leaves = MaskDistribution(*(parameter.clone().requires_grad_() for parameter in fixed))
    gradient, mean = torch.zeros_like(torch.stack(fixed)), 0.0
    turn = 1.0 if module.sign == "cooperative" else -1.0
    for _ in range(module.masks_per_image):  # one graph at a time
        cost = module.masked_cross_entropy(images, labels, leaves.rsample()).mean() / module.masks_per_image
        gradient += turn * torch.stack(torch.autograd.grad(cost, leaves))
        mean += float(cost.detach())
    return gradient, mean


def _agreement(
    policy: NoisePolicy, distribution: MaskDistribution, halves: Sequence[Tensor], total: Callable[[Tensor], Tensor]
) -> float:
    """Send both halves' ``[2, B, M]`` back through the policy and compare what arrives at its parameters."""
    first, second = ([total(part) for part in _through(policy, distribution, half)] for half in halves)
    return split_half_cosine(first, second)


def _through(policy: nn.Module, distribution: MaskDistribution, gradient: Tensor) -> Sequence[Tensor]:
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    # Not backward(): the gradients of training, and the hooks of its strategy, are none of this function's business.
    return torch.autograd.grad(
        list(distribution), parameters, list(gradient), retain_graph=True, allow_unused=True, materialize_grads=True
    )
