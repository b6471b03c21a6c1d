"""Pictures of what the noise policy does to images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..modules.noise_mask import NoiseMaskPretraining
from ..run_dir.writing import tolerate_full_disk, write_whole
from .pictures import log_picture, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("image", "expected mask", "drawn mask", "masked image")


class MaskGallery(Callback):
    """Writes ``<run directory>/masks/iteration_<n>.png``: images of several classes, their masks, what is left of them.

    The images are those of the first training batch and stay the same for the whole run, so that pictures can be
    compared. With a TensorBoard logger the picture goes there too.

    Args:
        every_n_iterations: how often; ``None`` only at the end of the fit.
        images: rows of the picture, at most; each has another class, spread over the sorted classes.
    """

    def __init__(self, every_n_iterations: int | None = None, images: int = 6) -> None:
        if images < 1 or (every_n_iterations is not None and every_n_iterations < 1):
            raise ValueError(
                "images must be at least 1 and every_n_iterations at least 1 or null, "
                f"got {images} and {every_n_iterations}"
            )
        self.every_n_iterations = every_n_iterations
        self.images = images
        self._examples: tuple[Tensor, list[str]] | None = None
        self._drawn_at = -1

    @property
    def state_key(self) -> str:
        """Galleries of other sizes or times have images of their own."""
        return self._generate_state_key(every_n_iterations=self.every_n_iterations, images=self.images)

    def state_dict(self) -> dict[str, Any]:
        """The images, so that a resumed run's pictures can be compared with those before."""
        if self._examples is None:
            return {}
        images, titles = self._examples
        return {"images": images.cpu(), "titles": list(titles), "drawn_at": self._drawn_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same images."""
        self._examples = (state_dict["images"], state_dict["titles"])
        self._drawn_at = state_dict["drawn_at"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without masks."""
        if not isinstance(pl_module, NoiseMaskPretraining):
            raise MisconfigurationException(
                f"MaskGallery draws the masks of NoiseMaskPretraining, not of {type(pl_module).__name__}; remove it"
            )

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Choose the images, once."""
        if self._examples is None:
            images, labels = batch
            # Images with several labels are as different as images of different classes.
            rows = spread_over_classes(labels, self.images) if labels.dim() == 1 else torch.arange(len(labels))
            rows = rows[: self.images]
            names: Sequence[str] | None = getattr(getattr(trainer, "datamodule", None), "class_names", None)
            titles = [title_of(label, names) for label in labels[rows].tolist()]
            self._examples = (images[rows].detach().clone(), titles)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Draw every n iterations."""
        if self.every_n_iterations is None or not isinstance(pl_module, NoiseMaskPretraining):
            return
        if pl_module.iteration % self.every_n_iterations == 0:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the final masks."""
        if isinstance(pl_module, NoiseMaskPretraining):
            path = self._draw(trainer, pl_module)
            if path.is_file():
                rank_zero_info(f"Masks drawn in {path}")

    def _draw(self, trainer: Trainer, module: NoiseMaskPretraining) -> Path:
        path = Path(trainer.default_root_dir) / "masks" / f"iteration_{module.iteration:06d}.png"
        if self._examples is None or not trainer.is_global_zero or self._drawn_at == module.iteration:
            return path
        images, titles = self._examples
        drawn, expected = module.draw_masks(images.to(module.device))
        picture = png(mask_figure(images.cpu(), expected.cpu(), drawn.cpu(), titles))
        with tolerate_full_disk(path):
            write_whole(path, picture)
        self._drawn_at = module.iteration
        log_picture(trainer, "masks", picture, module.iteration)
        return path


def spread_over_classes(labels: Tensor, count: int) -> Tensor:
    """Rows of ``count`` images of different classes (fewer if there are fewer), evenly over the sorted classes."""
    classes = torch.unique(labels)
    chosen = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).round().long()]
    return torch.stack([(labels == label).nonzero()[0, 0] for label in chosen])


def title_of(label: int | list[float], names: Sequence[str] | None) -> str:
    """The name of an image's class, or of all of its labels.

    Args:
        label: its number, or a 0 or 1 for each label.
        names: ``None`` where nobody knows them.
    """
    numbers = [label] if isinstance(label, int) else [number for number, true in enumerate(label) if true]
    return "\n".join(names[number] if names else f"class {number}" for number in numbers) or "no label"


def mask_figure(images: Tensor, expected: Tensor, drawn: Tensor, titles: Sequence[str]) -> Figure:
    """One row an image: the image, its expected mask, a drawn mask, and the image under the drawn mask.

    Args:
        images: ``[N, 3, S, S]`` normalised; the first channel is shown, image and masked image on one grey scale.
        expected: ``[N, 1, S, S]``.
        drawn: ``[N, 1, S, S]``.
        titles: of the rows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.55 * len(images) + 0.4), layout="constrained")
    axes = figure.subplots(len(images), len(COLUMNS), squeeze=False)
    top = max(1.0, float(expected.max()), float(drawn.max()))
    for row, title in enumerate(titles):
        image = images[row, 0]
        masked = image * drawn[row, 0]
        grey = {"cmap": "gray", "vmin": float(image.min()), "vmax": float(image.max())}
        mask = {"cmap": "viridis", "vmin": 0.0, "vmax": top}
        shown = zip((image, expected[row, 0], drawn[row, 0], masked), (grey, mask, mask, grey), strict=True)
        for column, (pixels, scale) in enumerate(shown):
            axes[row, column].imshow(pixels.numpy(), interpolation="nearest", **scale)
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(title.replace("-", "\n", 1), fontsize=8)
    for column, heading in enumerate(COLUMNS):
        axes[0, column].set_title(heading, fontsize=9)
    return figure
