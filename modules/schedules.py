"""Learning-rate schedules with warm-up for the language models."""

from __future__ import annotations

from typing import Any, Literal

from torch.optim import Optimizer

Schedule = Literal["constant", "linear", "cosine"]

_TRANSFORMERS_NAME = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def with_schedule(optimizer: Optimizer, schedule: Schedule, warmup_ratio: float, steps: int) -> dict[str, Any]:
    """An optimiser and its schedule as Lightning wants them.

    Args:
        optimizer: whose learning rate moves.
        schedule: after the warm-up: stay, or fall to zero in a line or a half cosine.
        warmup_ratio: share of ``steps`` in which the rate rises to its value.
        steps: of the whole run, one a training batch (an iteration of the loop).

    Raises:
        ValueError: if the warm-up is not a share.
    """
    from transformers import get_scheduler

    if not 0 <= warmup_ratio < 1:
        raise ValueError(f"warmup_ratio must lie in [0, 1), got {warmup_ratio}")
    scheduler = get_scheduler(
        _TRANSFORMERS_NAME[schedule], optimizer, num_warmup_steps=round(warmup_ratio * steps), num_training_steps=steps
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
