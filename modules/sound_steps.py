"""Steps on numbers that are not finite: they are skipped and leave nothing behind, and many in a row end the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from ..processes import sum_over_ranks
from .sharding import check_strategy

#: How many steps in a row may be skipped where no `FaultGuard` says otherwise.
MAX_FAULTY_STEPS = 10
#: Among a step's statistics, it says that this step was skipped.
SKIPPED = "update/skipped_steps"

_WARNINGS = 16  # of a run are all shown, later ones at 32, 64, ...


class RepeatedFaults(RuntimeError):
    """Too many steps in a row were skipped; the module is as it was before the first of them."""


class SoundSteps(LightningModule):
    """A module that takes no step on a loss, reward or gradient which is NaN or infinite.

    A skipped step leaves weights, buffers (batch normalisation's statistics, running averages) and optimisers as they
    were before it; learning-rate schedules and counters go on. All ranks skip together, whichever found the fault.

    Attributes:
        max_faulty_steps: so many skipped steps in a row end the run; see `FaultGuard`.
        faulty_in_a_row: steps skipped since the last good one.
        skipped_steps: steps skipped in the whole run, which checkpoints keep.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_faulty_steps = MAX_FAULTY_STEPS
        self.faulty_in_a_row = 0
        self.skipped_steps = 0
        self._kept_buffers: KeptBuffers | None = None
        self._seen: tuple[Any, int] = (None, 0)
        self._first_fault = ""

    def setup(self, stage: str) -> None:
        """Refuse a strategy under which this module cannot run."""
        check_strategy(self, stage)

    def on_fit_start(self) -> None:
        """Look for the buffers anew: the networks may have been built since."""
        self._kept_buffers, self.faulty_in_a_row = None, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the count of skipped steps."""
        checkpoint["skipped_steps"] = self.skipped_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stopped."""
        self.skipped_steps = int(checkpoint.get("skipped_steps", 0))

    def begin_step(self, batch: Any, batch_idx: int, networks: Iterable[nn.Module]) -> None:  # noqa: ANN401
        """Remember what a fault is to be told with, and the buffers that a skipped step gives back."""
        self._seen = (batch, batch_idx)
        if self._kept_buffers is None:
            self._kept_buffers = KeptBuffers(networks)
        self._kept_buffers.keep()

    def faults(self, numbers: Mapping[str, Tensor]) -> dict[str, float]:
        """Those of the numbers that are not finite on some rank; one host read, and one small sum over ranks.

        Args:
            numbers: scalars by name, the same names on all ranks.
        """
        values = [number.detach().to(self.device, torch.float32) for number in numbers.values()]
        summed = sum_over_ranks(torch.stack(values))  # a NaN or an infinity of any rank is one of the sum
        return {name: value for name, value in zip(numbers, summed.tolist(), strict=True) if not math.isfinite(value)}

    def step_taken(self) -> None:
        """A good step ends a row of faults, and what it made of the buffers is what the next one starts from."""
        self.faulty_in_a_row = 0
        if self._kept_buffers is not None:
            self._kept_buffers.keep()

    def skip_step(self, faults: Mapping[str, float], cause: str = "") -> None:
        """Undo what the step's forward passes did to the buffers, count and tell.

        Args:
            faults: what was not finite, by name.
            cause: a sentence more about it, where there is one.

        Raises:
            RepeatedFaults: if it is one too many.
        """
        if self._kept_buffers is not None:
            self._kept_buffers.restore()
        what = " and ".join(f"{name} is {value}" for name, value in faults.items()) + (f" ({cause})" if cause else "")
        place = f"{self._moment()} ({_told_batch(*self._seen)})"
        self._first_fault = self._first_fault if self.faulty_in_a_row else self._moment()
        self.faulty_in_a_row += 1
        self.skipped_steps += 1
        if self.faulty_in_a_row >= self.max_faulty_steps:
            raise RepeatedFaults(self._repeated(place, what))
        if self.skipped_steps <= _WARNINGS or self.skipped_steps & (self.skipped_steps - 1) == 0:
            rank_zero_warn(
                f"no step at {place}: {what}. Weights, buffers and optimisers stay as they were; "
                f"{self.faulty_in_a_row} in a row, {self.skipped_steps} in this run ({self.max_faulty_steps} in a row "
                "end it)"
            )

    def scaler(self) -> Any:  # noqa: ANN401 - torch's GradScaler or nothing
        """What scales the loss under ``16-mixed``; it skips steps of infinite gradients itself, to find its scale."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _moment(self) -> str:
        return f"step {self.trainer.global_step + 1}"

    def _repeated(self, place: str, what: str) -> str:
        return (
            f"{self.faulty_in_a_row} steps in a row could not be taken, the last at {place}: {what}. The model is as "
            f"it was before {self._first_fault}, the first of them. If one record is to blame, look at it (a value "
            "that is not finite, an image of one grey); if not, start again from an earlier checkpoint with a lower "
            "learning rate, gradient clipping (`--update.max_grad_norm`, or `--trainer.gradient_clip_val`) or, for a "
            "policy with a reference, a higher kl_coef. The callback FaultGuard(max_in_a_row=...) lets more pass"
        )


class SoundAutomaticSteps(SoundSteps):
    """The same for modules whose optimiser Lightning steps: looked at after the backward pass, before the step."""

    def __init__(self) -> None:
        super().__init__()
        self._loss_of_step: Tensor | None = None  # of all batches whose gradients are accumulated

    def on_fit_start(self) -> None:
        """Nothing is left of an earlier fit."""
        super().on_fit_start()
        self._loss_of_step = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401 - Lightning's signature
        """Keep the buffers from before a step's first batch."""
        if self._loss_of_step is None:
            self.begin_step(batch, batch_idx, [self])

    def on_before_backward(self, loss: Tensor) -> None:
        """See the loss, which a finite gradient does not vouch for."""
        loss = loss.detach()
        self._loss_of_step = loss if self._loss_of_step is None else self._loss_of_step + loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Called before every step: clip as asked, or take the gradients away, without which nothing steps."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        scaled = self.scaler() is not None
        norm = None if scaled else gradient_norm(parameters)
        numbers = {} if self._loss_of_step is None else {"the loss": self._loss_of_step}
        numbers |= {} if norm is None else {"the gradient's norm": norm}
        self._loss_of_step = None
        faults = self.faults(numbers) if numbers else {}
        if faults:
            # A fused optimiser under a scaler must find its gradients, and skips the step for what they are.
            found_later = scaled and getattr(optimizer, "_step_supports_amp_scaling", False)
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, torch.nan) if found_later else None
            self.skip_step(faults)
        else:
            self.step_taken()
            if norm is not None and gradient_clip_val is not None and gradient_clip_algorithm in (None, "norm"):
                nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
            else:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self._seen = (None, 0)
        self.log("update/skipped_steps_total", float(self.skipped_steps))


class KeptBuffers:
    """The networks' buffers of a moment, to go back to; the memory of the copies is used again.

    Args:
        networks: whose buffers; truth values are left out, they are constants.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        parts = {id(part): part for network in networks for part in network.modules()}
        self._owners = [part for part in parts.values() if part._buffers]
        self._kept: list[tuple[list[Tensor], list[Tensor]]] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copy them."""
        found = self._found()
        if [[id(buffer) for buffer in buffers] for buffers in found] != [
            [id(buffer) for buffer in buffers] for buffers, _ in self._kept
        ]:
            self._kept = [(buffers, [torch.empty_like(buffer) for buffer in buffers]) for buffers in found]
        for buffers, copies in self._kept:
            torch._foreach_copy_(copies, buffers)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back."""
        for buffers, copies in self._kept:
            torch._foreach_copy_(buffers, copies)

    def _found(self) -> list[list[Tensor]]:
        """By type, because tensors of one type are copied in one call."""
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for owner in self._owners:
            for buffer in owner._buffers.values():
                if buffer is not None and buffer.dtype != torch.bool:
                    kinds.setdefault(buffer.dtype, []).append(buffer)
        return list(kinds.values())


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).detach()
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # where parameters are sharded
    return whole


def _told_batch(batch: Any, batch_idx: int) -> str:  # noqa: ANN401 - a batch is whatever the datamodule gives
    """The batch's number, and the first records' names where they have any."""
    number = f"batch {batch_idx} of the epoch"
    if not isinstance(batch, Sequence) or not all(isinstance(record, Mapping) for record in batch):
        return number
    names = [str(record.get("task_id") or record.get("_source") or "") for record in batch]
    names = [name for name in names if name]
    if not names:
        return number
    return f"{number}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
