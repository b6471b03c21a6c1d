"""When a run of faulty steps ends."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from ..modules.sound_steps import MAX_FAULTY_STEPS, SoundSteps


class FaultGuard(Callback):
    """End a run after so many steps in a row whose loss, reward or gradient was not finite.

    Such steps are skipped in any case (`SoundSteps`), and 10 in a row end a run without this callback, too.

    Args:
        max_in_a_row: m; 1 ends the run at the first.
    """

    def __init__(self, max_in_a_row: int = MAX_FAULTY_STEPS) -> None:
        if max_in_a_row < 1:
            raise ValueError(
                f"max_in_a_row must be at least 1 (the first faulty step ends the run), got {max_in_a_row}"
            )
        self.max_in_a_row = max_in_a_row

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the module."""
        if isinstance(pl_module, SoundSteps):
            pl_module.max_faulty_steps = self.max_in_a_row
