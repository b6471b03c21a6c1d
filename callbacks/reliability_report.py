"""What a reliability report holds: R^2 of each strategy, agreement of the ranks, buckets, the filtration to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ..execution import Status
from ..functional import (
    Binning,
    Estimate,
    RankAgreement,
    RSquared,
    SelectionMode,
    Strategy,
    r_squared,
    rank_agreement,
    select,
    wilson_interval,
)

Row = Mapping[str, Any]
Json = dict[str, Any]

CAVEAT = (
    "R^2 depends on the bins and on the range of rewards that a strategy leaves: best_worst keeps both ends, which "
    "raises it, best_of_n one, which lowers it. Compare strategies of one report only."
)


# Bounds that lie closer together are the same.
_TIE = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A filtration whose R^2 is measured.

    Args:
        name: in the report.
        strategy: see `tamis.functional.select`.
        keep: responses of a task that pass; ``None`` is all.
        mode: ``hard`` or ``sample``.
        power: exponent of ``power``.
        high: upper threshold.
        low: lower threshold.
    """

    name: str
    strategy: Strategy
    keep: int | None = None
    mode: SelectionMode = "hard"
    power: float = 1.0
    high: float | None = None
    low: float | None = None

    def columns(self, rewards: Tensor, seed: int) -> Tensor:
        """``[P, keep]`` which of the ``[P, N]`` responses pass."""
        keep = rewards.shape[1] if self.keep is None else self.keep
        generator = torch.Generator().manual_seed(seed)
        return select(
            rewards, self.strategy, keep, self.mode, generator, power=self.power, high=self.high, low=self.low
        )

    def flags(self) -> str:
        """The command line's options that train with it."""
        values: Json = {"strategy": self.strategy, "keep": self.keep}
        values |= {"power": self.power, "mode": self.mode} if self.strategy == "power" else {}
        values |= {"high": self.high, "low": self.low} if self.strategy.startswith("top") else {}
        return " ".join(f"--filter.{name}={value}" for name, value in values.items() if value is not None)


@dataclass(frozen=True)
class Settings:
    """How R^2 is measured; see `tamis.functional.r_squared`."""

    bins: int
    binning: Binning
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class Report:
    """What is known of a reward: fits by the candidates' names, in their order."""

    settings: Settings
    tasks: int
    samples: int
    pass_rate: float
    candidates: Mapping[str, Candidate]
    fits: Mapping[str, RSquared]
    agreement: RankAgreement
    recommended: str | None


def candidates(keep: int, powers: Sequence[float], high: float | None, low: float | None) -> list[Candidate]:
    """The paper's strategies, and the controls ``none`` and ``random``; those by threshold where there is one."""
    found = [Candidate("none", "none"), Candidate("random", "random", keep), Candidate("best_of_n", "best_of_n", 1)]
    found += [Candidate("best_random", "best_random", keep), Candidate("best_worst", "best_worst", keep)]
    # In `hard` mode the exponent would change nothing: the order of |reward| is that of its powers.
    found += [Candidate(f"power_{power:g}", "power", keep, "sample", power) for power in powers]
    if high is not None:
        found += [Candidate("top", "top", keep, high=high), Candidate("top_random", "top_random", keep, high=high)]
    if high is not None and low is not None:
        found.append(Candidate("top_bottom", "top_bottom", keep, high=high, low=low))
    return found


def measure(rewards: Tensor, passed: Tensor, chosen: Sequence[Candidate], settings: Settings) -> dict[str, RSquared]:
    """R^2 of what each candidate keeps of ``[P, N]`` rewards and verdicts (1.0 where the tests passed)."""
    fits = {}
    for candidate in chosen:
        columns = candidate.columns(rewards, settings.seed)
        tasks = torch.arange(len(rewards)).unsqueeze(1).expand_as(columns)
        fits[candidate.name] = r_squared(
            rewards.gather(1, columns).flatten(),
            passed.gather(1, columns).flatten(),
            settings.bins,
            settings.binning,
            settings.bootstrap,
            settings.seed,
            tasks.flatten(),
        )
    return fits


def most_reliable(fits: Mapping[str, RSquared], present: str | None = None) -> str | None:
    """The name with the highest lower bound of R^2; ``present`` wins a tie, then the first.

    The bound, and not the value: a strategy that leaves few responses may have a high R^2 by luck. A line that falls
    (more reward, fewer passes) is no reliability, whatever its R^2; ``None`` if nothing else is left.
    """
    lows = {name: fit.low for name, fit in fits.items() if math.isfinite(fit.low) and fit.slope > 0}
    if not lows:
        return None
    # A reward that is the verdict itself gives every strategy a 1, up to rounding.
    best = [name for name, low in lows.items() if low > max(lows.values()) - _TIE]
    return present if present in best else best[0]


def report(rewards: Tensor, passed: Tensor, chosen: Sequence[Candidate], settings: Settings) -> Report:
    """Measure everything on ``[P, N]`` rewards and verdicts."""
    fits = measure(rewards, passed, chosen, settings)
    tasks = torch.arange(len(rewards)).unsqueeze(1).expand_as(rewards).flatten()
    agreement = rank_agreement(rewards.flatten(), passed.flatten(), tasks, settings.bootstrap, settings.seed)
    # `random` is the control: it is `none` with fewer responses.
    recommended = most_reliable({name: fit for name, fit in fits.items() if name != "random"})
    named = {candidate.name: candidate for candidate in chosen}
    sizes = len(rewards), rewards.shape[1]
    return Report(settings, *sizes, float(passed.mean()), named, fits, agreement, recommended)


def lost_tasks(rows: Sequence[Row]) -> set[Any]:
    """Ids of tasks with a sample that got no verdict through a fault of the sandbox, or a reward that is no number."""
    return {row["task_id"] for row in rows if row["status"] == Status.INTERNAL or not math.isfinite(row["reward"])}


def matrices(rows: Sequence[Row]) -> tuple[list[str], Tensor, Tensor]:
    """Ids of the tasks that have all their verdicts, and ``[P, N]`` their rewards and 1.0 where the tests passed.

    Args:
        rows: judged samples, each once and in order.

    Raises:
        ValueError: if tasks have different numbers of samples, or only one, or no rewards.
    """
    if any(row["reward"] is None for row in rows):
        raise ValueError("RewardReliability needs rewards; set `--model.reward LearnedReward` and its folder")
    lost = lost_tasks(rows)
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if row["task_id"] not in lost:
            groups.setdefault(row["task_id"], []).append(row)
    sizes = {len(group) for group in groups.values()}
    if len(sizes) != 1 or sizes == {1}:
        raise ValueError(
            f"RewardReliability needs the same number (2 or more) of samples of every task, got {sorted(sizes)} of the "
            f"tasks whose samples all have a verdict ({len(groups)} of {len(groups) + len(lost)}); "
            "set `--model.eval_samples 5 --model.eval_temperature 1`"
        )
    rewards, passed = (
        torch.tensor([[float(row[key]) for row in group] for group in groups.values()], dtype=torch.float64)
        for key in ("reward", "passed")
    )
    return list(map(str, groups)), rewards, passed


def check_enough(tasks: int, bins: int) -> None:
    """Every bin needs a response, also of those that ``best_of_n`` leaves.

    Raises:
        ValueError: naming the way out.
    """
    if tasks < bins:
        raise ValueError(
            f"best_of_n leaves one response a task, and those of {tasks} tasks cannot fill bins={bins}; take more "
            f"tasks (ten times as many as bins are few), or fewer bins"
        )


def as_json(found: Report, left_out: int) -> Json:
    """The report's file; numbers that do not exist are null, because JSON knows no NaN."""
    strategies: dict[str, Json] = {}
    for name, fit in found.fits.items():
        ends = _buckets(fit)
        strategies[name] = {key: _plain(value) for key, value in fit._asdict().items()}
        strategies[name] |= {"bin_lows": [low for low, _ in ends], "bin_highs": [high for _, high in ends]}
        strategies[name]["flags"] = found.candidates[name].flags()
    recommended = None
    if found.recommended is not None:
        recommended = {"strategy": found.recommended, "flags": found.candidates[found.recommended].flags()}
    return {
        "tasks": found.tasks,
        "samples_per_task": found.samples,
        "tasks_left_out": left_out,
        "pass_rate": found.pass_rate,
        "settings": asdict(found.settings),
        "intervals": "95 %; of R^2 and ranks by bootstrap over tasks, of buckets by Wilson",
        "kendall_tau": _estimate(found.agreement.tau),
        "auc": _estimate(found.agreement.auc),
        "auc_within_tasks": _estimate(found.agreement.auc_within),
        "strategies": strategies,
        "recommended": recommended,
        "why": why(found),
    }


def why(found: Report) -> str:
    """The recommendation with its reason."""
    if found.recommended is None:
        return (
            "No strategy is recommended: none leaves responses whose pass rate rises with the reward. Look at the "
            "reward, or at tasks that are neither always nor never solved."
        )
    fit = found.fits[found.recommended]
    return (
        f"{found.recommended} has the highest lower bound of R^2, {fit.low:.2f} (R^2 {fit.value:.2f}, up to "
        f"{fit.high:.2f}). {CAVEAT}"
    )


def show(found: Report) -> None:
    """The report as tables, with the flag to use."""
    Console().print(tables(found), highlight=False)


def tables(found: Report) -> RenderableType:
    """Strategies, buckets of all samples, agreement of the ranks, recommendation."""
    title = f"R^2 of reward and pass rate: {found.tasks} tasks, {found.samples} samples each"
    fits = _table(title, "strategy", "R^2", "95 % interval", "slope", "responses", "pass rate")
    for name, fit in found.fits.items():
        counts = fit.bin_counts.double()
        rate = float((fit.bin_scores * counts).sum() / counts.sum())
        mark = " <-" if name == found.recommended else ""
        interval = escape(f"[{fit.low:.3f}, {fit.high:.3f}]")
        fits.add_row(
            name + mark, f"{fit.value:.3f}", interval, f"{fit.slope:.3f}", f"{int(counts.sum())}", f"{rate:.3f}"
        )
    everything = next(iter(found.fits.values()))
    buckets = _table("All samples by reward", "mean reward", "responses", "pass rate", "95 % interval")
    for index, (low, high) in enumerate(_buckets(everything)):
        values = everything.bin_rewards[index], everything.bin_counts[index], everything.bin_scores[index]
        buckets.add_row(f"{values[0]:.3f}", f"{int(values[1])}", f"{values[2]:.3f}", escape(f"[{low:.3f}, {high:.3f}]"))
    names = {"tau": "Kendall's tau-b", "auc": "AUC", "auc_within": "AUC inside a task"}
    ranks = [
        f"{names[name]} {estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
        for name, estimate in found.agreement._asdict().items()
    ]
    use = [] if found.recommended is None else [f"Use it: {found.candidates[found.recommended].flags()}"]
    return Group(fits, buckets, *map(escape, ["; ".join(ranks), why(found), *use]))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "strategy" else "right")
    return table


def _buckets(fit: RSquared) -> list[tuple[float, float]]:
    """Wilson's interval of each bucket's pass rate, as if its responses were independent."""
    pairs = zip(fit.bin_scores.clamp(0, 1).tolist(), fit.bin_counts.tolist(), strict=True)
    return [tuple(wilson_interval(rate, count)) for rate, count in pairs]  # type: ignore[misc]


def _estimate(estimate: Estimate) -> Json:
    return {key: _plain(value) for key, value in estimate._asdict().items()}


def _plain(value: Tensor | float) -> list[float] | float | None:
    if isinstance(value, Tensor):
        numbers: list[float] = value.tolist()
        return numbers
    return value if math.isfinite(value) else None
