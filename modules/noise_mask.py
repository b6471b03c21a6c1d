"""Program two: a policy draws noise masks over medical images, and a classifier learns to see through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from ..functional import official_noise_objective, upsample_blur_matrix
from ..rollout import Rollout
from .backbones import build_backbone, save_classifier
from .classification import agree_on_classes, classification_metrics, log_evaluation
from .noise_policy import CELL_MARGIN, MaskDistribution, NoisePolicy
from .policy import ActionEvaluation, PolicyModule

Objective = Literal["official", "reinforce", "random"]
Sign = Literal["cooperative", "adversarial"]


class NoiseMaskPretraining(PolicyModule):
    """Noise pretraining (Yavuz & Yang, "Policy Gradient-Driven Noise Mask", ICPR 2024): a policy and a classifier.

    For each image the policy draws K masks of G x G cells from Beta(alpha(x), beta(x)); a mask is upsampled, blurred
    and multiplied on to the normalised image, and the classifier learns to see through it. The "heated" classifier is
    what stays: ``export`` writes it, `ImageClassifier` fine-tunes it. Defaults are the published recipe.

    Args:
        backbone: timm name of the classifier.
        policy_backbone: timm name of the policy's trunk.
        num_classes: ``None`` takes the datamodule's.
        grid: G.
        kernel_size: taps of the mask's Gaussian blur; 1 does not blur.
        sigma: of the blur, in pixels.
        masks_per_image: K. With K > 1 the update can compare masks of one image (leave-one-out), which is what lets the
            policy learn: masks change one image's cross-entropy far less than images differ.
        objective: ``reinforce``: the classifier minimises its cross-entropy, the policy learns from rewards by whatever
            update the trainer has. ``official``: the released code's product of both, see `official_noise_objective`.
            ``random``: cells uniform in [0, 1) and no policy, the control.
        sign: the reward is minus the cross-entropy (``cooperative``: masks that help) or plus (``adversarial``).
        normalise_masks: divide each mask by its mean, so that it keeps the image's contrast instead of halving it.
        decay: share of the running averages in the distribution's parameters; 0 does without them.
        average: memory of the running averages.
        policy_image_size: the policy looks at images resized to this many pixels; ``None`` at the full ones.
        policy_optimizer: makes the policy's optimiser.
        policy_scheduler: makes its schedule, stepped once an epoch.
        classifier_optimizer: makes the classifier's optimiser.
        classifier_scheduler: makes its schedule, stepped once an epoch.
        max_iterations: see `PolicyModule`.
    """

    upsampling: Tensor
    environment_networks: ClassVar[frozenset[str]] = frozenset({"classifier"})

    def __init__(
        self,
        backbone: str = "resnet18",
        policy_backbone: str = "resnet10t",
        num_classes: int | None = None,
        grid: int = 64,
        kernel_size: int = 13,
        sigma: float = 6.0,
        masks_per_image: int = 2,
        objective: Objective = "reinforce",
        sign: Sign = "cooperative",
        normalise_masks: bool = False,
        decay: float = 0.9,
        average: float = 0.99,
        policy_image_size: int | None = None,
        policy_optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4),
        policy_scheduler: LRSchedulerCallable = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=90),
        classifier_optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
        classifier_scheduler: LRSchedulerCallable = lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=30),
        max_iterations: int | None = None,
    ) -> None:
        super().__init__(max_iterations)
        if masks_per_image < 1:
            raise ValueError(f"masks_per_image must be at least 1, got {masks_per_image}")
        self.save_hyperparameters(
            ignore=["policy_optimizer", "policy_scheduler", "classifier_optimizer", "classifier_scheduler"]
        )
        self.backbone, self.num_classes = backbone, num_classes
        self.grid, self.kernel_size, self.sigma = grid, kernel_size, sigma
        self.masks_per_image, self.normalise_masks = masks_per_image, normalise_masks
        self.objective, self.sign = objective, sign
        self.factories = {
            "policy": (policy_optimizer, policy_scheduler),
            "classifier": (classifier_optimizer, classifier_scheduler),
        }
        self.policy = (
            None if objective == "random" else NoisePolicy(policy_backbone, grid, decay, average, policy_image_size)
        )
        self.network: nn.Module | None = None
        # [S, G], made when the first image shows its size; not saved, because it follows from the options.
        self.register_buffer("upsampling", torch.empty(0, grid), persistent=False)
        if num_classes is not None:
            self._build(num_classes)

    @property
    def learns_from_rewards(self) -> bool:
        """Only ``reinforce`` does; the other objectives hand over their whole loss."""
        return self.objective == "reinforce"

    @property
    def num_samples(self) -> int:
        """Actions a group, by the name that filters look for: K."""
        return self.masks_per_image

    @property
    def classifier(self) -> nn.Module:
        """The classifier, with logits for outputs.

        Raises:
            RuntimeError: while the number of classes is unknown.
        """
        if self.network is None:
            raise RuntimeError(
                "the classifier is not built yet: give num_classes, or let a Trainer with data set it up"
            )
        return self.network

    def setup(self, stage: str) -> None:
        """Check the update, and build the classifier for the data's classes."""
        super().setup(stage)
        classes = agree_on_classes(self.num_classes, self.trainer)
        if self.network is None:
            self._build(classes)

    def networks(self) -> dict[str, nn.Module]:
        """The policy (unless masks are random) and the classifier."""
        policy = {} if self.policy is None else {"policy": self.policy}
        return {**policy, "classifier": self.classifier}

    def act(self, batch: tuple[Tensor, Tensor]) -> Rollout:
        """Draw K masks for each of the batch's images; row ``k + K * i`` is mask k of image i."""
        images, labels = batch
        group_ids = torch.arange(len(images), device=images.device).repeat_interleave(self.masks_per_image)
        observations = {"images": images[group_ids], "labels": labels[group_ids]}
        if self.policy is None:
            actions = torch.rand(len(group_ids), self.grid**2, device=images.device)
            actions = actions.clamp(CELL_MARGIN, 1 - CELL_MARGIN)
        else:
            per_image = self.policy(images, update_average=True)
            self._log_distribution(per_image)
            rows = per_image.select(group_ids)
            actions = rows.sample()
            observations |= {"log_alpha": rows.log_alpha, "log_beta": rows.log_beta}
        mask = torch.ones_like(actions, dtype=torch.bool)
        return Rollout(group_ids=group_ids, actions=actions, response_mask=mask, observations=observations)

    def reward(self, rollout: Rollout) -> Rollout:
        """Classify each image through its mask: the cross-entropy is the classifier's loss and the policy's reward."""
        images, labels = rollout.observations["images"], rollout.observations["labels"]
        masks = self.render_masks(rollout.actions, images.shape[-1])
        cross_entropy = F.cross_entropy(self.classifier(images * masks), labels, reduction="none").float()
        self._log_masks(rollout.actions, masks, cross_entropy)
        reward = cross_entropy.detach() * (-1.0 if self.sign == "cooperative" else 1.0)
        loss = self._official_loss(rollout, cross_entropy) if self.objective == "official" else cross_entropy
        return rollout.replace(rewards=reward, environment_loss=loss)

    def complete(self, rollout: Rollout) -> Rollout:
        """The acting policy's log-probabilities, for updates that compare with them."""
        if self.policy is None:
            return rollout
        with torch.no_grad():
            log_probs, _ = self._evaluate_cells(self._distribution(rollout), rollout.actions)
        return rollout.replace(log_probs=log_probs)

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        """Log-density and entropy of each cell, ``[B, M]`` in fp32; there is no critic."""
        log_probs, entropy = self._evaluate_cells(self._distribution(rollout), rollout.actions)
        return ActionEvaluation(log_probs, entropy, None)

    def render_masks(self, cells: Tensor, size: int) -> Tensor:
        """``[B, G * G]`` cells -> ``[B, 1, size, size]`` masks: upsampled to the nearest cell, then blurred."""
        if self.upsampling.shape[0] != size:
            matrix = upsample_blur_matrix(self.grid, size, self.kernel_size, self.sigma)
            self.upsampling = matrix.to(self.device)
        masks = self.upsampling @ cells.view(-1, 1, self.grid, self.grid) @ self.upsampling.T
        return masks / masks.mean(dim=(-2, -1), keepdim=True) if self.normalise_masks else masks

    @torch.no_grad()
    def draw_masks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """A drawn mask and the expected mask of each image, in evaluation mode, for pictures.

        Args:
            images: ``[B, 3, S, S]`` normalised.

        Returns:
            Two tensors ``[B, 1, S, S]``.
        """
        if self.policy is None:
            cells = torch.rand(len(images), self.grid**2, device=images.device)
            expected = torch.full_like(cells, 0.5)
        else:
            training = self.policy.training
            distribution = self.policy.eval()(images)
            self.policy.train(training)
            cells, expected = distribution.sample(), distribution.mean()
        return self.render_masks(cells, images.shape[-1]), self.render_masks(expected, images.shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` clean normalised images -> ``[B, classes]`` logits."""
        logits: Tensor = self.classifier(images)
        return logits

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score the classifier on clean images of the validation split."""
        log_evaluation(self, self.metrics, self(batch[0]), batch[1], "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score the classifier on clean images of the test split."""
        log_evaluation(self, self.metrics, self(batch[0]), batch[1], "test")

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of shapes
        """An optimiser and a schedule for each network, in the order of `networks`."""
        optimizers, schedulers = [], []
        for name, network in self.networks().items():
            make_optimizer, make_scheduler = self.factories[name]
            optimizers.append(make_optimizer(network.parameters()))
            schedulers.append({"scheduler": make_scheduler(optimizers[-1]), "interval": "epoch"})
        return optimizers, schedulers

    def export(self, folder: Path) -> None:
        """Write the heated classifier's ``classifier.pt`` into ``folder``; the policy has done its work."""
        save_classifier(folder, self.classifier, self.backbone, int(self.hparams["num_classes"]))

    def _build(self, num_classes: int) -> None:
        self.network = build_backbone(self.backbone, num_classes)
        self.metrics = classification_metrics(num_classes)
        self.hparams["num_classes"] = num_classes  # so that a checkpoint can be loaded without the data

    def _distribution(self, rollout: Rollout) -> MaskDistribution:
        """The rows' distributions: as they acted while that graph lives, computed afresh after the first step."""
        observations = rollout.observations
        if self.policy is None:
            raise RuntimeError("objective 'random' has no policy to evaluate; use `--update EnvironmentUpdate`")
        if observations["log_alpha"].requires_grad:
            return MaskDistribution(observations["log_alpha"], observations["log_beta"])
        row_of_image, image_of_row = _distinct(rollout.group_ids)
        with self.policy.frozen_statistics():
            distribution: MaskDistribution = self.policy(observations["images"][row_of_image])
        return distribution.select(image_of_row)

    def _evaluate_cells(self, distribution: MaskDistribution, cells: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(cells.device.type, enabled=False):
            beta = distribution.beta()
            return beta.log_prob(cells.float()), beta.entropy()

    def _official_loss(self, rollout: Rollout, cross_entropy: Tensor) -> Tensor:
        log_probs, _ = self._evaluate_cells(self._distribution(rollout), rollout.actions)
        self.log("update/classifier_lr_factor", log_probs.detach().logsumexp(dim=1).mean())
        # One number for the batch; the update takes the mean over rows, which gives it back.
        return official_noise_objective(log_probs, cross_entropy).expand(len(rollout))

    def _log_distribution(self, distribution: MaskDistribution) -> None:
        with torch.no_grad():
            self.log("rollout/alpha_mean", distribution.log_alpha.exp().mean())
            self.log("rollout/beta_mean", distribution.log_beta.exp().mean())
            self.log("rollout/cell_expectation", distribution.mean().mean())
            if len(distribution.log_alpha) > 1:  # 0 means that every image gets the same distribution
                self.log("rollout/alpha_spread_over_images", distribution.log_alpha.std(dim=0).mean())

    def _log_masks(self, cells: Tensor, masks: Tensor, cross_entropy: Tensor) -> None:
        with torch.no_grad():
            self.log("rollout/cell_mean", cells.mean())
            self.log("rollout/mask_mean", masks.mean())
            self.log("rollout/mask_std", masks.std(dim=(-2, -1)).mean())
            self.log("train/cross_entropy", cross_entropy.mean(), prog_bar=True)


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The row where each distinct id comes first, and for each row the index of its id."""
    distinct, inverse = torch.unique(ids, return_inverse=True)
    rows = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(distinct, len(ids)).scatter_reduce(0, inverse, rows, reduce="amin")
    return first, inverse
