"""The noise mask's half of the demo: three arms on phantoms, the same fine-tuning for each, over several seeds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..callbacks import MaskDiagnostics
from ..cli import TamisCLI, run
from ..datamodules.images import ImageDataModule
from ..functional import Difference
from ..modules import NoiseMaskPretraining

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

#: Arm -> config of its first stage; the second stage is phantoms_finetune.yaml for all of them.
ARMS = {
    "baseline": "phantoms_baseline.yaml",
    "random mask": "phantoms_random_mask.yaml",
    "learned mask": "phantoms_noise_mask.yaml",
}
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}


@dataclass
class ArmResult:
    """One arm's test metrics, one entry a seed.

    Args:
        name: of the arm.
        scores: metric -> its value for each seed.
        seconds: both stages and the test, for each seed.
    """

    name: str
    scores: dict[str, list[float]] = field(default_factory=lambda: {metric: [] for metric in METRICS})
    seconds: list[float] = field(default_factory=list)

    def mean(self, metric: str) -> float:
        """Mean over seeds."""
        return sum(self.scores[metric]) / len(self.scores[metric])

    def standard_error(self, metric: str) -> float:
        """Standard error of that mean, NaN for one seed."""
        values = torch.tensor(self.scores[metric], dtype=torch.float64)
        return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


@dataclass
class ImageResults:
    """What the three arms came to.

    Args:
        arms: baseline, random mask, learned mask.
        seeds: of the repetitions.
        learned: reward of learned masks less that of random ones on the validation images, one a seed; the reward is
            minus the cross-entropy.
        test_images: what every score is taken on.
        picture: the figure.
    """

    arms: list[ArmResult]
    seeds: list[int]
    learned: list[Difference]
    test_images: int
    picture: Path

    def summary(self) -> str:
        """One sentence that claims what was measured, and no more."""
        baseline, learned = self.arms[0], self.arms[-1]
        pairs = zip(learned.scores["accuracy"], baseline.scores["accuracy"], strict=True)
        gaps = torch.tensor([after - before for after, before in pairs], dtype=torch.float64)
        gap, seeds = float(gaps.mean()), len(gaps)
        # All seeds are tested on the same images, so more seeds do not shrink what those images leave open.
        variances = [arm.mean("accuracy") * (1 - arm.mean("accuracy")) for arm in (baseline, learned)]
        error = math.sqrt(sum(variances) / self.test_images)
        if seeds > 1:
            error = math.hypot(error, float(gaps.std()) / math.sqrt(seeds))
        source = f"{seeds} seed{'s' * (seeds > 1)} and {self.test_images} test images"
        verdict = "no difference beyond noise" if abs(gap) < 2 * error else "more than twice its standard error"
        return f"Learned mask against baseline: accuracy {gap:+.3f} ± {error:.3f} ({source}): {verdict}."


def run_images(folder: Path, seeds: Sequence[int]) -> ImageResults:
    """Train every arm with every seed, test it, and leave ``metrics.json`` and ``noise_mask.png`` in ``folder``.

    Args:
        folder: new or empty; every stage gets its own run directory in it.
        seeds: at least one; the phantoms are the same for all of them.

    Raises:
        ValueError: without a seed.
    """
    if not seeds:
        raise ValueError("run_images needs at least one seed")
    arms = [ArmResult(name) for name in ARMS]
    learned = []
    for seed in seeds:
        for arm in arms:
            pretrained, tuned = _run_arm(folder, arm, seed)
        learned.append(_against_random(pretrained))  # of the last arm, the learned mask
    test_images = tuned.datamodule.split("test").images
    results = ImageResults(arms, list(seeds), learned, test_images, folder / "noise_mask.png")
    (folder / "metrics.json").write_text(json.dumps(_as_json(results), indent=2) + "\n")
    results_figure(results, pretrained.model, pretrained.datamodule).savefig(results.picture, dpi=120)
    return results


def _against_random(run: TamisCLI) -> Difference:
    """What the run's `MaskDiagnostics` measured at its end."""
    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    (diagnostics,) = (callback for callback in callbacks if isinstance(callback, MaskDiagnostics))
    if diagnostics.last is None:
        raise RuntimeError("the learned arm's config measures nothing: its fit needs a validation")
    return diagnostics.last.differences["random"]


def results_figure(results: ImageResults, module: NoiseMaskPretraining, data: ImageDataModule) -> Figure:
    """Left: images and their masks in the learned arm. Right: the arms' test metrics with standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1))
    _draw_examples(panels[0, 0], module, data)
    _draw_scores(panels[0, 1].subplots(), results)
    return figure


def _draw_examples(figure: SubFigure, module: NoiseMaskPretraining, data: ImageDataModule, count: int = 5) -> None:
    raw = next(iter(data.val_dataloader()))
    batch = data.on_after_batch_transfer(raw, 0)
    rows = _one_of_each(data.class_groups["anatomy"], batch.labels.tolist())[:count]
    images = batch.images[rows]
    drawn, expected = module.draw_masks(images.to(module.device))
    axes = figure.subplots(3, len(rows), squeeze=False)
    for column, row in enumerate(rows):
        image, mask = images[column, 0], drawn[column, 0].cpu()
        grey = {"cmap": "gray", "vmin": float(image.min()), "vmax": float(image.max())}
        axes[0, column].imshow(image.numpy(), **grey)
        axes[1, column].imshow(expected[column, 0].cpu().numpy(), cmap="viridis", vmin=0, vmax=float(drawn.max()))
        axes[2, column].imshow((image * mask).numpy(), **grey)
        name = data.class_names[int(batch.labels[row])]
        axes[0, column].set_title(_title(name), fontsize=8)
    for axis, heading in zip(axes[:, 0], ("image", "expected mask", "under a mask"), strict=True):
        axis.set_ylabel(heading, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])


def _draw_scores(axis: Axes, results: ImageResults) -> None:
    for offset, arm in enumerate(results.arms):
        positions = [place + (offset - 1) * 0.2 for place in range(len(METRICS))]
        errors = [0.0 if math.isnan(error := arm.standard_error(metric)) else error for metric in METRICS]
        axis.errorbar(positions, [arm.mean(metric) for metric in METRICS], errors, fmt="o", capsize=4, label=arm.name)
    axis.set_xticks(range(len(METRICS)), list(METRICS.values()))
    axis.set_xlim(-0.5, len(METRICS) - 0.5)
    axis.set_ylabel("test score")
    seeds = len(results.seeds)
    spread = f"mean ± standard error of {seeds} seeds" if seeds > 1 else "one seed"
    axis.set_title(f"after the same fine-tuning, {spread}", fontsize=9)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False)


def _title(class_name: str) -> str:
    """``CT__abd__liver_lesion`` as two short lines."""
    modality, anatomy, *pathology = class_name.split("__")
    return "\n".join([f"{modality} {anatomy}", *pathology]).replace("_", " ")


def _one_of_each(group_of_class: list[str], labels: list[int]) -> list[int]:
    """The first row of each group of classes."""
    first: dict[str, int] = {}
    for row, label in enumerate(labels):
        first.setdefault(group_of_class[label], row)
    return [first[group] for group in sorted(first)]


def _run_arm(folder: Path, arm: ArmResult, seed: int) -> tuple[TamisCLI, TamisCLI]:
    """Both stages and the test of one arm with one seed; its scores go into ``arm``."""
    started = time.perf_counter()
    stages = [_run_dir(folder, arm.name, seed, stage) for stage in ("pretrain", "finetune")]
    pretrained = run(["fit", *_options(folder, ARMS[arm.name], seed, stages[0])])
    weights = f"--model.weights={stages[0] / 'model'}"
    tuned = run(["fit", *_options(folder, "phantoms_finetune.yaml", seed, stages[1]), weights])
    tuned.trainer.test(tuned.model, tuned.datamodule, verbose=False)
    for metric in METRICS:
        arm.scores[metric].append(float(tuned.trainer.callback_metrics[f"test/{metric}"]))
    arm.seconds.append(time.perf_counter() - started)
    return pretrained, tuned


def _run_dir(folder: Path, arm: str, seed: int, stage: str) -> Path:
    return folder / f"seed_{seed}" / arm.replace(" ", "_") / stage


def _options(folder: Path, config: str, seed: int, run_dir: Path) -> list[str]:
    path = files("tamis.configs") / "quickstart" / config
    return [
        f"--config={path}",
        f"--seed_everything={seed}",
        f"--run_dir={run_dir}",
        f"--data.root={folder / 'phantoms'}",
    ]


def _as_json(results: ImageResults) -> dict[str, object]:
    return {
        "seeds": results.seeds,
        "arms": {
            arm.name: {
                metric: {
                    "mean": arm.mean(metric),
                    "standard_error": None if len(results.seeds) < 2 else arm.standard_error(metric),
                    "seeds": arm.scores[metric],
                }
                for metric in METRICS
            }
            | {"seconds": arm.seconds}
            for arm in results.arms
        },
        "learned_minus_random": [difference._asdict() for difference in results.learned],
        "summary": results.summary(),
    }
