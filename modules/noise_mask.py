"""Program two: a policy draws noise masks over medical images, and a classifier learns to see through them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from ..functional import LabelKind, official_noise_objective
from ..processes import mean_over_ranks, place, several_processes
from ..rollout import Rollout
from .classification import images_so_far, log_evaluation
from .classifier_part import ClassifierPart
from .image_loss import ClassBalance, ImageLoss
from .mask_draws import MaskDraws
from .mask_rendering import MaskNormalisation, MaskRenderer, mask_statistics, reverse_gradient
from .masked_evaluation import KINDS, MaskedEvaluation
from .noise_objective import (
    Objective,
    Regulariser,
    Sign,
    check_objective,
    distribution_statistics,
    regularisation,
)
from .noise_policy import CELL_MARGIN, MaskDistribution, NoisePolicy
from .policy import ActionEvaluation, PolicyModule


class NoiseMaskPretraining(ClassifierPart, PolicyModule):
    """Noise pretraining (Yavuz & Yang, "Policy Gradient-Driven Noise Mask", ICPR 2024): a policy and a classifier.

    For each image the policy draws K masks of G x G cells from Beta(alpha(x), beta(x)); a mask is upsampled, blurred
    and multiplied on to the normalised image, and the classifier learns to see through it. The "heated" classifier is
    what stays: ``export`` writes it, `ImageClassifier` fine-tunes it. Sizes and optimisers are the published recipe's.

    Args:
        backbone: timm name of the classifier.
        policy_backbone: timm name of the policy's trunk.
        num_classes: ``None`` takes the datamodule's.
        grid: G; with the image's own size every pixel is a cell.
        kernel_size: taps of the mask's Gaussian blur; 1 does not blur.
        sigma: of the blur, in pixels.
        masks_per_image: K. With K > 1 the update can compare masks of one image (leave-one-out), which is what lets the
            policy learn: masks change one image's cross-entropy far less than images differ.
        objective: ``reinforce``: the classifier minimises its cross-entropy, the policy learns from rewards by whatever
            update the trainer has. ``official``: the released code's product of both, see `official_noise_objective`.
            ``pathwise``: the cross-entropy's own gradient reaches the policy through the drawn cells. ``random``: cells
            uniform in [0, 1) and no policy, and ``none``: plain training without masks, the two controls. All but
            ``reinforce`` take `EnvironmentUpdate`.
        sign: the reward is minus the cross-entropy (``cooperative``: masks that help) or plus (``adversarial``).
        divide_lr_factor: of ``official`` only: give the classifier the plain cross-entropy's gradient instead of about
            2 log G times it, and the policy the published one.
        regulariser: what keeps a learning policy from masks without noise: ``entropy`` rewards the cells' entropy,
            ``kl_to_average`` punishes their divergence from the running averages' distribution. For ``reinforce`` and
            ``pathwise``; an update's own entropy bonus is another way to the first.
        regulariser_coef: its weight, per nat and cell.
        mask_normalisation: ``unit_mean`` divides each mask by its mean, so that it keeps the image's brightness, which
            is what a policy learns to move first; ``none`` as published.
        decay: share of the running averages in the distribution's parameters; 0 does without them.
        average: memory of the running averages.
        policy_image_size: the policy looks at images resized to this many pixels; ``None`` at the full ones.
        channels_last: keep both networks and their images in that memory format; the same numbers but for rounding.
        masked_evaluation: validation and test also score the classifier behind mean and drawn masks; two more passes.
        eval_seed: of the masks drawn in evaluation, each by its image's number in the split.
        label_kind: see `ImageClassifier`; ``None`` takes the datamodule's.
        class_balance: of the loss, and so of the reward, for unbalanced classes; see `ClassBalance`.
        policy_optimizer: makes the policy's optimiser.
        policy_scheduler: makes its schedule, stepped once an epoch.
        classifier_optimizer: makes the classifier's optimiser.
        classifier_scheduler: makes its schedule, stepped once an epoch.
        max_iterations: see `PolicyModule`.
        seed: of the masks drawn in training, each by iteration, image's number in the batch of all ranks, and k.
    """

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
        divide_lr_factor: bool = False,
        regulariser: Regulariser = "none",
        regulariser_coef: float = 0.1,
        mask_normalisation: MaskNormalisation = "none",
        decay: float = 0.9,
        average: float = 0.99,
        policy_image_size: int | None = None,
        channels_last: bool = False,
        masked_evaluation: bool = True,
        eval_seed: int = 0,
        label_kind: LabelKind | None = None,
        class_balance: ClassBalance | None = None,
        policy_optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
        ),
        policy_scheduler: LRSchedulerCallable = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=90),
        classifier_optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True
        ),
        classifier_scheduler: LRSchedulerCallable = lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=30),
        max_iterations: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(max_iterations)
        check_objective(objective, sign, masks_per_image, divide_lr_factor, regulariser, regulariser_coef)
        self.save_hyperparameters(
            ignore=[
                "class_balance",
                "policy_optimizer",
                "policy_scheduler",
                "classifier_optimizer",
                "classifier_scheduler",
            ]
        )
        self.backbone, self.num_classes, self.label_kind = backbone, num_classes, label_kind
        self.grid, self.channels_last = grid, channels_last
        self.loss = ImageLoss(class_balance)
        # Without masks the K rows of an image would be K times the same.
        self.masks_per_image = 1 if objective == "none" else masks_per_image
        self.objective: Objective = objective
        self.sign, self.divide_lr_factor = sign, divide_lr_factor
        self.regulariser, self.regulariser_coef = regulariser, regulariser_coef
        self.masked_evaluation, self.eval_seed = masked_evaluation and objective != "none", eval_seed
        self.seed = seed
        self.factories = {
            "policy": (policy_optimizer, policy_scheduler),
            "classifier": (classifier_optimizer, classifier_scheduler),
        }
        self.renderer = MaskRenderer(grid, kernel_size, sigma, mask_normalisation)
        self.policy = (
            None
            if objective in ("random", "none")
            else NoisePolicy(policy_backbone, grid, decay, average, policy_image_size, channels_last)
        )
        self.network = None
        if num_classes is not None:
            self.build(num_classes, label_kind)

    @property
    def learns_from_rewards(self) -> bool:
        """Only ``reinforce`` does; the other objectives hand over their whole loss."""
        return self.objective == "reinforce"

    @property
    def num_samples(self) -> int:
        """Actions a group, by the name that filters look for: K."""
        return self.masks_per_image

    def setup(self, stage: str) -> None:
        """Check the update and the grid, and build the classifier for the data's classes."""
        super().setup(stage)
        self.take_data(stage)
        size: int | None = getattr(getattr(self.trainer, "datamodule", None), "image_size", None)
        if size is not None:
            self.renderer.prepare(size)

    def networks(self) -> dict[str, nn.Module]:
        """The policy (unless masks are random) and the classifier."""
        policy = {} if self.policy is None else {"policy": self.policy}
        return {**policy, "classifier": self.classifier}

    def act(self, batch: tuple[Tensor, Tensor]) -> Rollout:
        """Draw K masks for each of the batch's images; row ``k + K * i`` is mask k of image i."""
        images, labels = batch
        k = self.masks_per_image
        group_ids = torch.arange(len(images), device=images.device).repeat_interleave(k)
        observations = {"images": images, "labels": labels}
        if k > 1:  # with one row an image the batch is not copied
            observations = {name: tensor.repeat_interleave(k, dim=0) for name, tensor in observations.items()}
        draws = MaskDraws(f"{self.seed}/{self.iteration}", k, *place())
        if self.policy is None:
            self.refuse_single_image(len(group_ids))  # a policy refuses it itself
            shape = len(group_ids), self.grid**2
            random = self.objective == "random"
            actions = draws.uniform(*shape, images.device) if random else torch.ones(shape, device=images.device)
        else:
            per_image = self.policy(images, update_average=True)
            self.log_dict(distribution_statistics(per_image))
            rows = per_image.select(group_ids) if k > 1 else per_image
            actions = draws.beta(rows, pathwise=self.objective == "pathwise")
            observations |= {"log_alpha": rows.log_alpha, "log_beta": rows.log_beta}
        mask = torch.ones_like(actions, dtype=torch.bool)
        return Rollout(group_ids=group_ids, actions=actions, response_mask=mask, observations=observations)

    def reward(self, rollout: Rollout) -> Rollout:
        """Classify each image through its mask: the cross-entropy is the classifier's loss and the policy's reward."""
        images, labels = rollout.observations["images"], rollout.observations["labels"]
        # The classifier descends its cross-entropy in any case; an adversarial policy climbs it.
        turned = self.objective == "pathwise" and self.sign == "adversarial"
        cells = reverse_gradient(rollout.actions) if turned else rollout.actions
        masks = None if self.objective == "none" else self.render_masks(cells, images.shape[-1])
        cross_entropy = self._cross_entropy(images if masks is None else images * masks, labels)
        self.log("train/cross_entropy", cross_entropy.detach().mean(), prog_bar=True)
        if masks is not None:
            self.log_dict(mask_statistics(rollout.actions, masks))
        loss = self._loss(rollout, cross_entropy)
        return rollout.replace(rewards=self.reward_of(cross_entropy), environment_loss=loss)

    def complete(self, rollout: Rollout) -> Rollout:
        """The acting policy's log-probabilities, for updates that compare with them."""
        if not self.learns_from_rewards:
            return rollout
        with torch.no_grad():
            return rollout.replace(log_probs=self._distribution(rollout).log_prob(rollout.actions))

    def evaluate_actions(self, rollout: Rollout) -> ActionEvaluation:
        """Log-density and entropy of each cell, ``[B, M]`` in fp32; there is no critic."""
        distribution = self._distribution(rollout)
        return ActionEvaluation(distribution.log_prob(rollout.actions), distribution.entropy(), None)

    def render_masks(self, cells: Tensor, size: int) -> Tensor:
        """``[B, G * G]`` cells -> ``[B, 1, size, size]`` masks: upsampled, blurred, normalised."""
        masks: Tensor = self.renderer(cells, size)
        return masks

    def random_cells(self, rows: int) -> Tensor:
        """``[rows, G * G]`` cells uniform in (0, 1): the control that learns nothing."""
        return torch.rand(rows, self.grid**2, device=self.device).clamp(CELL_MARGIN, 1 - CELL_MARGIN)

    def masked_cross_entropy(self, images: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
        """``[B]`` cross-entropy of each image seen through its mask, in fp32.

        Args:
            images: ``[B, 3, S, S]`` normalised.
            labels: ``[B]``.
            cells: ``[B, G * G]``; a gradient reaches them.
        """
        return self._cross_entropy(images * self.render_masks(cells, images.shape[-1]), labels)

    def reward_of(self, cross_entropy: Tensor) -> Tensor:
        """``[B]`` the policy's reward: minus the cross-entropy, or plus for an adversary; a constant."""
        return cross_entropy.detach() * (-1.0 if self.sign == "cooperative" else 1.0)

    @torch.no_grad()
    def draw_masks(self, images: Tensor, draws: MaskDraws | None = None) -> tuple[Tensor, Tensor]:
        """A drawn mask and the expected mask of each image, in evaluation mode.

        Args:
            images: ``[B, 3, S, S]`` normalised.
            draws: by which numbers; ``None`` takes PyTorch's global generator.

        Returns:
            Two tensors ``[B, 1, S, S]``.
        """
        if self.policy is None:
            rows = len(images)
            cells = self.random_cells(rows) if draws is None else draws.uniform(rows, self.grid**2, images.device)
            expected = torch.full_like(cells, 0.5)
            if self.objective == "none":
                cells = expected = torch.ones_like(cells)
        else:
            distribution = self.policy.evaluated(images)
            cells = distribution.sample() if draws is None else draws.beta(distribution)
            expected = distribution.mean()
        return self.render_masks(cells, images.shape[-1]), self.render_masks(expected, images.shape[-1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score the classifier on the validation split: clean, behind mean masks, behind drawn ones."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score the classifier on the test split: clean, behind mean masks, behind drawn ones."""
        self._evaluate(batch, batch_idx, "test")

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of shapes
        """An optimiser and a schedule for each network, in the order of `networks`."""
        optimizers, schedulers = [], []
        for name, network in self.networks().items():
            make_optimizer, make_scheduler = self.factories[name]
            optimizers.append(make_optimizer(network.parameters()))
            schedulers.append({"scheduler": make_scheduler(optimizers[-1]), "interval": "epoch"})
        return optimizers, schedulers

    def build(self, num_classes: int, kind: LabelKind | None) -> None:
        """Measure behind masks, too."""
        super().build(num_classes, kind)
        self.masked_metrics = MaskedEvaluation(num_classes, self.loss.kind) if self.masked_evaluation else None

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> None:
        images, labels = batch
        # The same weights give the same numbers, and training draws what it would have drawn without evaluation.
        draws = MaskDraws(f"{stage}/{self.eval_seed}", 1, *place(), first=images_so_far(self.metrics, stage))
        kept = log_evaluation(self, self.metrics, self(images), labels, stage)
        if self.masked_metrics is not None:
            drawn, expected = self.draw_masks(images, draws)
            for kind, masks in zip(KINDS, (expected, drawn), strict=True):
                self.masked_metrics.log(self, kind, self(images * masks)[:kept], labels[:kept], stage)

    def _cross_entropy(self, images: Tensor, labels: Tensor) -> Tensor:
        losses: Tensor = self.loss(self(images), labels)
        return losses.float()

    def _loss(self, rollout: Rollout, cross_entropy: Tensor) -> Tensor:
        """``[B]`` what this objective hands over to be minimised."""
        if self.objective == "official":
            return self._official_loss(rollout, cross_entropy)
        return cross_entropy if self.regulariser == "none" else cross_entropy + self._penalty(rollout)

    def _penalty(self, rollout: Rollout) -> Tensor:
        """``[B]`` the regulariser's part of the loss."""
        if self.policy is None:
            raise RuntimeError(f"objective {self.objective!r} has no policy to regularise")
        average = self.policy.average_distribution()
        penalty = regularisation(self._distribution(rollout), average, self.regulariser)
        self.log("update/mask_regulariser", penalty.detach().mean())
        return self.regulariser_coef * penalty

    def _distribution(self, rollout: Rollout) -> MaskDistribution:
        """The rows' distributions: as they acted while that graph lives, computed afresh after the first step."""
        observations = rollout.observations
        if self.policy is None:
            raise RuntimeError("objective 'random' has no policy to evaluate; use `--update EnvironmentUpdate`")
        if observations["log_alpha"].requires_grad:
            return MaskDistribution(observations["log_alpha"], observations["log_beta"])
        row_of_image, image_of_row = rollout.first_of_each_group()
        with self.policy.frozen_statistics():
            distribution: MaskDistribution = self.policy(observations["images"][row_of_image])
        return distribution.select(image_of_row)

    def _official_loss(self, rollout: Rollout, cross_entropy: Tensor) -> Tensor:
        log_probs = self._distribution(rollout).log_prob(rollout.actions)
        factor = mean_over_ranks(log_probs.detach().logsumexp(dim=1).mean())
        if self.divide_lr_factor:
            factor = torch.ones_like(factor)
        self.log("update/classifier_lr_factor", factor)
        rate = self._optimizers()[-1].param_groups[0]["lr"] if self._trainer is not None else 0.0
        self.log("update/lr_classifier_effective", rate * factor)
        # One number for the batch; the update takes the mean over rows, which gives it back.
        whole = mean_over_ranks if several_processes() else None
        return official_noise_objective(log_probs, cross_entropy, self.divide_lr_factor, whole).expand(len(rollout))
