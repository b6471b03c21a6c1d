"""How far a reward can be trusted, and which filtration follows from it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ..functional import Binning, RSquared, Strategy, r_squared, select

_KEEP: dict[Strategy, int] = {"none": 0, "best_of_n": 1, "best_random": 2, "best_worst": 2}


class RewardReliability(Callback):
    """Under ``tamis test``: compare reward and verified pass rate of the test samples (PF-PPO, section 4).

    Gives R^2 with a bootstrap interval for the unfiltered samples and for those that each strategy keeps, the
    reliability curve, and a JSON file. The module has to sample several responses a task
    (``--model.eval_samples 5 --model.eval_temperature 1``) and to have a reward.

    Args:
        bins: groups of similar reward.
        binning: ``quantile`` for groups of equal count, ``width`` for groups of equal width.
        bootstrap: resamples for the intervals.
        folder: where ``reliability.json`` and ``reliability.png`` go; ``None`` is the run directory.
        seed: of draws and resamples.
    """

    def __init__(
        self,
        bins: int = 10,
        binning: Binning = "quantile",
        bootstrap: int = 1000,
        folder: str | None = None,
        seed: int = 0,
    ) -> None:
        self.bins, self.bootstrap, self.seed = bins, bootstrap, seed
        self.binning: Binning = binning
        self.folder = folder
        self._rows: list[Mapping[str, Any]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with no samples."""
        self._rows = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the judged samples."""
        self._rows += outputs["samples"]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, draw and write."""
        rewards, passed = self._matrices()
        report = self.measure(rewards, passed)
        folder = Path(self.folder or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "reliability.json").write_text(json.dumps(_as_json(report), indent=2) + "\n")
        _plot(report, folder / "reliability.png")
        rank_zero_info("R^2 between reward and pass rate, 95 % bootstrap interval:")
        for strategy, fit in report.items():
            rank_zero_info(f"  {strategy:12s} {fit.value:6.3f}  [{fit.low:.3f}, {fit.high:.3f}]")
        rank_zero_info(f"Written to {folder / 'reliability.json'} and {folder / 'reliability.png'}")

    def measure(self, rewards: Tensor, passed: Tensor) -> dict[Strategy, RSquared]:
        """R^2 of every strategy.

        Args:
            rewards: ``[P, N]``.
            passed: ``[P, N]`` 1.0 where the tests passed.
        """
        report = {}
        for strategy, keep in _KEEP.items():
            generator = torch.Generator().manual_seed(self.seed)
            columns = select(rewards, strategy, keep or rewards.shape[1], generator=generator)
            kept = rewards.gather(1, columns).flatten(), passed.gather(1, columns).flatten()
            report[strategy] = r_squared(*kept, self.bins, self.binning, self.bootstrap, self.seed)
        return report

    def _matrices(self) -> tuple[Tensor, Tensor]:
        groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        lost = {row["task_id"] for row in self._rows if row["status"] == "internal"}
        if lost:
            rank_zero_warn(f"{len(lost)} tasks are left out: the sandbox lost programs of theirs")
        for row in self._rows:
            if row["task_id"] not in lost:
                groups[row["task_id"]].append(row)
        sizes = {len(group) for group in groups.values()}
        if len(sizes) != 1 or sizes == {1}:
            raise ValueError(
                f"RewardReliability needs the same number (2 or more) of samples of every task, got {sorted(sizes)}; "
                "set `--model.eval_samples 5 --model.eval_temperature 1`"
            )
        if any(row["reward"] is None for row in self._rows):
            raise ValueError("RewardReliability needs rewards; set `--model.reward LearnedReward` and its folder")
        rewards = torch.tensor([[row["reward"] for row in group] for group in groups.values()])
        return rewards, torch.tensor([[float(row["passed"]) for row in group] for group in groups.values()])


def _as_json(report: Mapping[Strategy, RSquared]) -> dict[str, dict[str, Any]]:
    return {
        strategy: {name: _plain(value) for name, value in fit._asdict().items()} for strategy, fit in report.items()
    }


def _plain(value: Tensor | float) -> list[float] | float | None:
    """JSON knows no NaN: without a line there is no number."""
    if isinstance(value, Tensor):
        numbers: list[float] = value.tolist()
        return numbers
    return value if math.isfinite(value) else None


def _plot(report: Mapping[Strategy, RSquared], path: Path) -> None:
    """Reliability curve of each strategy, with its line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for index, (strategy, fit) in enumerate(report.items()):
        label = f"{strategy}  $R^2$ {fit.value:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
        axes.plot(fit.bin_rewards, fit.bin_scores, "o", color=f"C{index}", label=label, markersize=4)
        ends = fit.bin_rewards[[0, -1]]
        axes.plot(ends, fit.slope * ends + fit.intercept, color=f"C{index}", linewidth=1)
    axes.set_xlabel("reward (mean of each bin)")
    axes.set_ylabel("share that passes its tests")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
