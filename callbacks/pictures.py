"""Figures as PNG files and in TensorBoard."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ..run_dir.writing import tolerate_full_disk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def log_picture(trainer: Trainer, name: str, picture: bytes, step: int) -> None:
    """Show a PNG in TensorBoard, if the trainer has it among its loggers."""
    from PIL import Image

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB"))
            with tolerate_full_disk(f"TensorBoard's picture {name}", "the picture is left out."):
                logger.experiment.add_image(name, pixels, step, dataformats="HWC")
