"""The update for objectives that are a loss of their own and leave the rewards aside."""

from __future__ import annotations

from typing import ClassVar

from lightning.pytorch import Trainer
from torch import Tensor

from ..modules.policy import PolicyModule, PolicyUpdate
from ..rollout import Rollout


class EnvironmentUpdate(PolicyUpdate):
    """One step of every network on the loss that the rollout hands over: the noise mask's ``official`` and ``random``.

    Args:
        max_grad_norm: each network's gradient is clipped to this norm; ``None`` does not clip.
    """

    learns_from_rewards: ClassVar[bool] = False

    def __init__(self, max_grad_norm: float | None = None) -> None:
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive or null (no clipping), got {max_grad_norm}")
        self.max_grad_norm = max_grad_norm

    def update(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> dict[str, Tensor]:
        """Step on the mean of ``environment_loss``.

        Raises:
            ValueError: if the rollout has none.
        """
        if rollout.environment_loss is None:
            raise ValueError(
                f"{type(module).__name__} hands over no environment_loss, and EnvironmentUpdate steps on nothing else; "
                "use PPOUpdate or ReinforceUpdate"
            )
        loss = rollout.environment_loss.mean()
        norms = module.optimize(loss.new_zeros(()), loss, self.max_grad_norm)
        return {"update/loss": loss.detach(), **norms}
