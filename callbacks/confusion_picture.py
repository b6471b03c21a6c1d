"""The confusion matrix as a picture, for four classes as for some hundred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

LONGEST_NAME = 40
_ABSENT = "0.8"  # grey: a class without images is not a class of which none is right
_SCALE = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


class _Layout(NamedTuple):
    """How a number of classes is drawn.

    Args:
        classes: at most.
        cell: inches a side.
        font: of the names, in points; 0 where none would be legible.
        numbers: whether cells hold their percentage.
    """

    classes: float
    cell: float
    font: float
    numbers: bool


_LAYOUTS = (
    _Layout(8, 0.5, 8, True),
    _Layout(20, 0.36, 8, True),
    _Layout(60, 0.19, 7, False),
    _Layout(200, 0.125, 5.5, False),
    _Layout(float("inf"), 0.06, 0, False),
)


def confusion_figure(
    confusion: Tensor, names: Sequence[str], blocks: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """Rows are the true classes, columns the predicted ones; each row is divided by the number of its images.

    Colours follow the square root of the share, so that confusions of one in a hundred show beside the diagonal.

    Args:
        confusion: ``[C, C]`` counts.
        names: of the classes.
        blocks: the group of each class; lines are drawn where it changes from one class to the next, unless it does so
            at most of them.
        title: of the picture.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = confusion.numpy().astype(float)
    support = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        shares = counts / support[:, None]  # NaN for a class without images
    layout = next(layout for layout in _LAYOUTS if len(names) <= layout.classes)
    side = max(layout.cell * len(names), 2)
    figure = Figure(figsize=(side + 3.2, side + 2.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, norm=PowerNorm(0.5, 0, 1), cmap=_colours(), interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true (images)")
    axes.set_title(title, fontsize=10)  # as wide as four classes
    _name_the_classes(axes, [_shortened(name) for name in names], support, layout)
    if layout.numbers:
        _write_percentages(axes, shares)
    if blocks is not None:
        _separate(axes, blocks, line=1.2 if layout.numbers else 0.5)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 6 / side), pad=0.01, ticks=_SCALE, label="share of the row")
    bar.ax.set_yticklabels([f"{share:g}" for share in _SCALE], fontsize=7)
    return figure


def _colours() -> Colormap:
    import matplotlib

    return matplotlib.colormaps["Blues"].with_extremes(bad=_ABSENT)


def _name_the_classes(axes: Axes, names: Sequence[str], support: NDArray[np.float64], layout: _Layout) -> None:
    if layout.font == 0:
        return  # matplotlib's own ticks number the classes
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90, fontsize=layout.font)
    with_images = [f"{name} ({int(count)})" for name, count in zip(names, support, strict=True)]
    axes.set_yticks(places, with_images, fontsize=layout.font)
    axes.tick_params(length=0, pad=1.5)


def _write_percentages(axes: Axes, shares: NDArray[np.float64]) -> None:
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        share = shares[row, column]
        colour = "white" if share > 0.35 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)


def _separate(axes: Axes, blocks: Sequence[str], line: float) -> None:
    places = [place - 0.5 for place in range(1, len(blocks)) if blocks[place] != blocks[place - 1]]
    for place in places if 2 * len(places) < len(blocks) else []:
        axes.axhline(place, color="0.4", linewidth=line)
        axes.axvline(place, color="0.4", linewidth=line)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
