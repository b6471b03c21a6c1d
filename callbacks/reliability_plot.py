"""The picture of a reliability report."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..functional import wilson_interval
from ..run_dir.writing import write_whole
from .reliability_report import Report


def draw(found: Report, path: Path) -> None:
    """Left: pass rate by reward, of all samples and of what the recommended strategy keeps. Right: R^2 by strategy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curve, bars = figure.subplots(1, 2, width_ratios=(1.15, 1))
    names = ["none"] if found.recommended in (None, "none") else ["none", found.recommended]
    for name, color in zip(names, ("C7", "C1"), strict=False):
        _curve(curve, found, str(name), color)
    curve.set(xlabel="reward (mean of each bucket)", ylabel="share that passes its tests", ylim=(-0.02, 1.02))
    agreement = found.agreement
    curve.set_title(
        f"AUC {agreement.auc.value:.2f}, inside a task {agreement.auc_within.value:.2f}, "
        f"Kendall's tau {agreement.tau.value:.2f}",
        fontsize=9,
    )
    curve.legend(frameon=False, fontsize=8)
    curve.grid(alpha=0.3)
    _strategies(bars, found)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())


def _curve(axes: Any, found: Report, name: str, color: str) -> None:  # noqa: ANN401 - matplotlib has no types
    fit = found.fits[name]
    counts = fit.bin_counts.tolist()
    pairs = zip(fit.bin_scores.clamp(0, 1).tolist(), counts, strict=True)
    ends = torch.tensor([wilson_interval(rate, count) for rate, count in pairs], dtype=torch.float64)
    errors = torch.stack([fit.bin_scores - ends[:, 0], ends[:, 1] - fit.bin_scores]).clamp(min=0)
    label = f"{'all samples' if name == 'none' else name} ({min(counts)} to {max(counts)} a bucket)"
    label = label if min(counts) != max(counts) else f"{label.partition(' (')[0]} ({min(counts)} a bucket)"
    style: dict[str, Any] = {"fmt": "o", "color": color, "markersize": 4, "elinewidth": 1, "capsize": 2}
    axes.errorbar(fit.bin_rewards, fit.bin_scores, yerr=errors, label=label, **style)
    line = fit.bin_rewards[[0, -1]]
    axes.plot(line, fit.slope * line + fit.intercept, color=color, linewidth=1)


def _strategies(axes: Any, found: Report) -> None:  # noqa: ANN401
    for place, (name, fit) in enumerate(found.fits.items()):
        color = "C1" if name == found.recommended else "C7"
        axes.plot([fit.low, fit.high], [place, place], "|-", color=color, linewidth=1.5, markersize=8)
        axes.plot(fit.value, place, "o", color=color, markersize=5)
    axes.set_yticks(range(len(found.fits)), list(found.fits))
    axes.set(xlim=(-0.02, 1.02), xlabel="$R^2$ with its 95 % interval (bootstrap over tasks)")
    axes.invert_yaxis()
    choice = f"recommended: {found.recommended}" if found.recommended else "no pass rate rises with the reward"
    axes.set_title(f"{choice} (highest lower bound)" if found.recommended else choice, fontsize=9)
    axes.grid(alpha=0.3, axis="x")
