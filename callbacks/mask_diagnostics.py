"""A noise mask that learns, shown and not assumed: its policy against a twin that never learned, and its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ..functional import Difference, moments, paired_difference, spread
from ..modules.noise_mask import NoiseMaskPretraining
from ..modules.noise_policy import MaskDistribution, NoisePolicy, separate_draws
from ..modules.sound_steps import KeptBuffers, SoundSteps
from .gradient_agreement import comparison_of, gradient_agreement
from .mask_rewards import ORIGINS, HeldOutImages, distributions, mask_rewards


class Measurement(NamedTuple):
    """One validation's result.

    Args:
        iteration: of the policy.
        differences: reward of the learned masks less that of each other origin, paired over images.
    """

    iteration: int
    differences: Mapping[str, Difference]


class MaskDiagnostics(Callback):
    """Measures at every validation whether `NoiseMaskPretraining`'s policy has learned, and says so at the end.

    The *twin* is a copy of the policy from the start of the fit. It sees every training batch as the policy does, so
    that its running averages and batch norms move, but its parameters never do: it is, bit for bit, the policy of a run
    with policy learning rate 0, at the price of one more policy forward an iteration. On held-out images, with all
    networks in evaluation mode, the reward behind the policy's masks is compared, image by image, with that behind the
    twin's, behind random ones, and behind those that the policy made for another image (``shuffled``: what remains is
    what a mask owes to its own image, and not to mere brightness). The policy gradient is estimated twice, from two
    halves of many mask draws; the cosine between them is 0 where there is nothing to learn from.

    Training is the same with this callback as without it. A validation costs ``4 * draws * images`` classifier forwards
    on one image, and for the gradient ``gradient_draws * K * gradient_images`` more (``pathwise``: with backwards): by
    default 4,096 and, at K = 2, 4,096. ``docs/metrics.md`` names what is logged, all under ``val/``.

    Args:
        images: held-out images for the rewards, of all ranks together and spread evenly over the validation split,
            which is often sorted by class. They are kept on the device for the length of a validation.
        draws: masks of each origin an image.
        gradient_draws: draws of K masks an image for the gradient; even; 0 leaves it out. Cosines of different numbers
            of draws or images cannot be compared.
        gradient_images: of those images, a rank, in one batch.
        seed: of all draws: the same weights give the same numbers.
        z_threshold: standard errors below which the policy counts as not told from its twin.
    """

    def __init__(
        self,
        images: int = 256,
        draws: int = 4,
        gradient_draws: int = 64,
        gradient_images: int = 32,
        seed: int = 0,
        z_threshold: float = 3.0,
    ) -> None:
        if images < 2 or draws < 1 or gradient_images < 2 or z_threshold <= 0:
            raise ValueError(
                "images and gradient_images must be at least 2, draws at least 1 and z_threshold positive, got "
                f"{images}, {gradient_images}, {draws} and {z_threshold}"
            )
        if gradient_draws % 2 or gradient_draws < 0 or gradient_draws == 2:
            raise ValueError(f"gradient_draws must be 0 (off) or an even number from 4 up, got {gradient_draws}")
        self.images, self.draws = images, draws
        self.gradient_draws, self.gradient_images = gradient_draws, gradient_images
        self.seed, self.z_threshold = seed, z_threshold
        self.twin: NoisePolicy | None = None
        self.last: Measurement | None = None
        self._saved_twin: dict[str, Tensor] | None = None
        self._held_out: HeldOutImages | None = None
        self._kept_buffers: KeptBuffers | None = None
        self._skipped = 0

    @property
    def state_key(self) -> str:
        """Two instances measure with draws of different seeds; other sizes of the same one go on with its twin."""
        return self._generate_state_key(seed=self.seed)

    def state_dict(self) -> dict[str, Any]:
        """The twin, and the last measurement, which the end of the fit speaks of."""
        twin = None if self.twin is None else self.twin.state_dict()
        if self.last is None:
            return {"twin": twin, "last": None}
        differences = {origin: list(difference) for origin, difference in self.last.differences.items()}
        return {"twin": twin, "last": {"iteration": self.last.iteration, "differences": differences}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a saved twin."""
        self._saved_twin, last = state_dict["twin"], state_dict.get("last")
        if last is not None:
            differences = {origin: Difference(*numbers) for origin, numbers in last["differences"].items()}
            self.last = Measurement(last["iteration"], differences)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without a policy of masks."""
        if not isinstance(pl_module, NoiseMaskPretraining):
            raise MisconfigurationException(
                f"MaskDiagnostics watches the policy of NoiseMaskPretraining, not {type(pl_module).__name__}; remove it"
            )
        if pl_module.policy is None:
            raise MisconfigurationException(
                f"MaskDiagnostics watches a policy learn, and objective {pl_module.objective!r} has none; remove it "
                "from the trainer's callbacks, or set objective to reinforce, pathwise or official"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the policy, or go on with the checkpoint's twin.

        Raises:
            MisconfigurationException: if the run has no held-out images.
        """
        if not trainer.enable_validation:
            raise MisconfigurationException(
                "MaskDiagnostics measures on held-out images at each validation, and this run has none; give it "
                "validation data (and limit_val_batches above 0), or remove MaskDiagnostics"
            )
        module, policy = _module_and_policy(pl_module)
        self.twin = deepcopy(policy).requires_grad_(False).train()
        if self._saved_twin is not None:
            self.twin.load_state_dict(self._saved_twin)
        elif module.iteration > 0:
            rank_zero_warn(
                f"MaskDiagnostics has no twin in this checkpoint, so it copies the policy as it is after "
                f"{module.iteration} iterations: it will be told what is learned from here on"
            )
        self._saved_twin = None
        self._kept_buffers = KeptBuffers([self.twin])

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Let the twin look at the batch as the policy is about to."""
        if self.twin is not None and self._kept_buffers is not None:
            self._kept_buffers.keep()
            self._skipped = _module_and_policy(pl_module)[0].skipped_steps
            precision = trainer.precision_plugin.forward_context()
            # Dropout, where the trunk has any, draws here what it will draw in the policy.
            with separate_draws(pl_module.device), torch.no_grad(), precision:
                self.twin(batch[0], update_average=True)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """What the policy has skipped, the twin has not seen either."""
        self._forget_skipped(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same where a skipped step ends the run."""
        self._forget_skipped(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to gather images."""
        self._held_out = None
        if self.twin is not None and not trainer.sanity_checking:
            wanted = -(-self.images // trainer.world_size)
            self._held_out = HeldOutImages(wanted, trainer.num_val_batches[0])
            if trainer.world_size > 1:
                for buffer in self.twin.buffers():  # as DDP does with the policy's: those of the first rank count
                    torch.distributed.broadcast(buffer, src=0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take some of the first validation set's images."""
        if self._held_out is not None and dataloader_idx == 0:
            self._held_out.add(batch[0], batch[1], batch_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        if self._held_out is None:
            return
        held_out, self._held_out = self._held_out, None
        with trainer.precision_plugin.forward_context():
            self._measure(trainer, pl_module, held_out)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the last measurement says."""
        if self.last is None:
            rank_zero_warn(
                "MaskDiagnostics measured nothing, because no validation ran during this fit; lower "
                "check_val_every_n_epoch or val_check_interval"
            )
            return
        learned, sentence = verdict(self.last, self.z_threshold)
        (rank_zero_info if learned else rank_zero_warn)(sentence)

    def _forget_skipped(self, module: LightningModule) -> None:
        if isinstance(module, SoundSteps) and self._kept_buffers is not None and module.skipped_steps != self._skipped:
            self._kept_buffers.restore()

    def _measure(self, trainer: Trainer, pl_module: LightningModule, held_out: HeldOutImages) -> None:
        module, policy = _module_and_policy(pl_module)
        images, labels = held_out.all()
        learned = distributions(policy, images, held_out.rows_at_once)
        rewards = self._rewards(module, learned, images, labels, held_out.rows_at_once)
        differences = {
            origin: paired_difference(_total(trainer, moments(rewards["learned"] - rewards[origin])))
            for origin in ORIGINS[1:]
        }
        self.last = Measurement(module.iteration, differences)
        metrics = {}
        for origin, values in rewards.items():
            sums = _total(trainer, moments(values))
            metrics[f"val/reward_{origin}"] = float(sums[1] / sums[0])
        for origin, difference in differences.items():
            metrics[f"val/learned_minus_{origin}"] = difference.mean
            metrics[f"val/learned_minus_{origin}_z"] = difference.z
        for name, parameter in zip(("alpha", "beta"), learned, strict=True):
            metrics[f"val/{name}_spread"] = float(spread(_total(trainer, moments(parameter))).mean())
        metrics |= self._gradient(trainer, module, images, labels)
        module.log_dict(metrics, sync_dist=True)  # the same numbers on every rank already

    def _rewards(
        self, module: NoiseMaskPretraining, learned: MaskDistribution, images: Tensor, labels: Tensor, rows_at_once: int
    ) -> dict[str, Tensor]:
        if self.twin is None:
            raise RuntimeError("the twin is made at the start of a fit")
        twin = distributions(self.twin, images, rows_at_once)
        seed = self.seed + module.global_rank
        return mask_rewards(module, learned, twin, images, labels, self.draws, seed, rows_at_once)

    def _gradient(
        self, trainer: Trainer, module: NoiseMaskPretraining, images: Tensor, labels: Tensor
    ) -> dict[str, float]:
        if self.gradient_draws == 0:
            return {}
        count = min(self.gradient_images, len(images))
        rows = torch.linspace(0, len(images) - 1, count, device=images.device).round().long()
        comparison = comparison_of(trainer, module)
        with separate_draws(module.device, self.seed + module.global_rank):
            found = gradient_agreement(
                module, images[rows], labels[rows], self.gradient_draws, comparison, lambda part: _total(trainer, part)
            )
        bias = {} if found.bias is None else {"val/gradient_bias_cosine": found.bias}
        return {"val/gradient_cosine": found.signal} | bias


def verdict(measurement: Measurement, threshold: float) -> tuple[bool, str]:
    """Whether a policy has learned what it is rewarded for, and the sentence that says so.

    Args:
        measurement: the last one.
        threshold: in standard errors.
    """
    twin, random = measurement.differences["twin"], measurement.differences["random"]
    numbers = (
        f"mask policy at iteration {measurement.iteration}, reward on held-out images: {_words(twin)} against its twin "
        f"that never learned, {_words(random)} against random masks"
    )
    if not abs(twin.z) >= threshold:  # so that NaN, which tells nothing apart, warns too
        return False, (
            f"The {numbers}. It cannot be told from a policy that never learned (learning rate 0): read this run as "
            "one with random masks. To let it learn, try masks_per_image of 2 or more with objective reinforce and "
            "ReinforceUpdate's leave_one_out, a coarser grid, decay 0, a higher policy learning rate, more iterations"
        )
    if twin.z < 0:
        return False, (
            f"The {numbers}. It has changed, and earns less than if it had never learned: lower the policy's learning "
            "rate or the weight of its entropy bonus or regulariser, or raise masks_per_image"
        )
    if not random.z >= threshold:
        how = "earns less than random masks" if random.z <= -threshold else "cannot be told from random masks"
        return False, f"The {numbers}. It has learned, but {how}: try decay 0, or train it longer"
    return True, f"The {numbers}. It has learned what it is rewarded for"


def _words(difference: Difference) -> str:
    return f"{difference.mean:+.2g} ± {difference.standard_error:.1g} nats (z = {difference.z:+.1f})"


def _module_and_policy(module: LightningModule) -> tuple[NoiseMaskPretraining, NoisePolicy]:
    if not isinstance(module, NoiseMaskPretraining) or module.policy is None:
        raise MisconfigurationException("MaskDiagnostics needs a NoiseMaskPretraining with a policy")
    return module, module.policy


def _total(trainer: Trainer, values: Tensor) -> Tensor:
    """The sum over ranks, where it was."""
    if trainer.world_size == 1:
        return values
    total = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="sum")
    return torch.as_tensor(total).to(values.device)
