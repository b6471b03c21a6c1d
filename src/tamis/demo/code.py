"""The code program's half of the demo: six stages, files between them, and pass@1 before and after."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import quickstart
from ..cli import TamisCLI, run
from ..functional import binomial_standard_error

#: Arm -> flags that make it from configs/quickstart/pf_ppo.yaml.
ARMS = {
    "PF-PPO best-worst": [],
    "PPO-M (all five)": ["--filter.strategy=none", "--update.minibatch_size=160"],
}


@dataclass
class PassRates:
    """pass@1 on the test tasks.

    Args:
        greedy: at temperature 0.
        sampled: at temperature 1, one sample a task.
        seconds: what the training stage took.
    """

    greedy: float
    sampled: float
    seconds: float


@dataclass
class CodeResults:
    """What the six stages came to.

    Args:
        test_tasks: number of held-out tasks.
        sft: the model that reinforcement learning starts from.
        arms: arm -> its result for each seed.
        reward_accuracy: the reward model's accuracy on pairs of unseen prompts.
        reliability: strategy -> R^2 and its interval.
        picture: the figure.
    """

    test_tasks: int
    sft: PassRates
    reward_accuracy: float
    picture: Path
    arms: dict[str, list[PassRates]] = field(default_factory=dict)
    reliability: dict[str, dict[str, float]] = field(default_factory=dict)

    def greedy(self, arm: str) -> tuple[float, float]:
        """Mean greedy pass@1 over seeds, and its standard error: the tasks' binomial one and the seeds', added."""
        return _mean_and_error([rates.greedy for rates in self.arms[arm]], self.test_tasks)

    def sampled(self, arm: str) -> tuple[float, float]:
        """The same for sampled pass@1."""
        return _mean_and_error([rates.sampled for rates in self.arms[arm]], self.test_tasks)

    def greedy_of_sft(self) -> tuple[float, float]:
        """Greedy pass@1 before reinforcement learning."""
        return _mean_and_error([self.sft.greedy], self.test_tasks)

    def sampled_of_sft(self) -> tuple[float, float]:
        """Sampled pass@1 before reinforcement learning."""
        return _mean_and_error([self.sft.sampled], self.test_tasks)

    def summary(self) -> str:
        """One sentence that claims what was measured, and no more."""
        arm = next(iter(self.arms))
        after, error = self.greedy(arm)
        error = math.hypot(error, self.greedy_of_sft()[1])
        gain = after - self.sft.greedy
        verdict = "a real gain" if gain > 2 * error else "no gain beyond noise" if gain > -2 * error else "a real loss"
        return f"{arm} against the SFT model it started from: greedy pass@1 {gain:+.3f} ± {error:.3f}: {verdict}."


def run_code(folder: Path, seeds: Sequence[int], console: Console) -> CodeResults:
    """Run every stage into ``folder``; leaves ``metrics.json`` and ``pf_ppo.png`` there.

    Args:
        folder: new or empty.
        seeds: of the reinforcement learning; data, SFT and reward model are shared.
        console: where the stages are announced.
    """
    stages = _Stages(folder, console)
    stages.announce(
        "tasks, demonstrations with bugs, tokenizer, untrained model", f"python -m tamis.quickstart {folder}"
    )
    quickstart.main([str(folder)])
    sft_seconds = stages.timed("supervised fine-tuning", "fit", "sft.yaml", "sft")
    sft = stages.pass_rates("sft", sft_seconds)
    stages.timed("five answers a task, judged by their tests", "predict", "preferences.yaml", "preferences")
    reward = stages.command("reward model on those pairs", "fit", "reward_model.yaml", "reward_model")
    accuracy = float(reward.trainer.callback_metrics["val/accuracy"])
    stages.command("how far can the reward be trusted?", "test", "reliability.yaml", "reliability")
    fits = json.loads((folder / "reliability" / "reliability.json").read_text())["strategies"]
    # The file says null where no line can be fitted.
    report: dict[str, Any] = {
        name: {key: math.nan if v is None else v for key, v in fit.items()} for name, fit in fits.items()
    }
    tasks = sum(1 for _ in (folder / "tasks" / "test.jsonl").open())
    results = CodeResults(tasks, sft, accuracy, folder / "pf_ppo.png")
    results.reliability = {name: {key: fit[key] for key in ("value", "low", "high")} for name, fit in report.items()}
    for arm, flags in ARMS.items():
        results.arms[arm] = [_train(stages, arm, flags, seed) for seed in seeds]
    (folder / "metrics.json").write_text(json.dumps(_as_json(results), indent=2) + "\n")
    _draw(results, report)
    return results


class _Stages:
    """Runs the quickstart's configs with their paths moved into one folder."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.configs = files("tamis.configs") / "quickstart"

    def announce(self, what: str, command: str) -> None:
        self.console.rule(f"[bold]{what}", align="left")
        self.console.print(f"[dim]{command}")

    def command(self, what: str, subcommand: str, config: str, name: str, *flags: str) -> TamisCLI:
        """One ``tamis`` command, with the config's paths moved."""
        run_dir = self.folder / name
        self.announce(
            what, f"tamis {subcommand} --config configs/quickstart/{config} --run_dir {run_dir} {' '.join(flags)}"
        )
        text = (self.configs / config).read_text(encoding="utf-8").replace("runs/quickstart/", f"{self.folder}/")
        moved = self.folder / "configs" / config
        moved.parent.mkdir(parents=True, exist_ok=True)
        moved.write_text(text, encoding="utf-8")
        return run([subcommand, f"--config={moved}", f"--run_dir={run_dir}", *flags])

    def timed(self, what: str, subcommand: str, config: str, name: str, *flags: str) -> float:
        """The same, and the seconds that it took."""
        started = time.perf_counter()
        self.command(what, subcommand, config, name, *flags)
        return time.perf_counter() - started

    def pass_rates(self, name: str, seconds: float) -> PassRates:
        """Greedy and sampled pass@1 of the model that a stage left."""
        rates = []
        for kind, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            flags = [
                f"--model.model_name_or_path={self.folder / name / 'model'}",
                f"--model.eval_temperature={temperature}",
            ]
            cli = self.command(f"{kind} pass@1 of {name}", "test", "pass_at_1.yaml", f"{name}/{kind}", *flags)
            rates.append(float(cli.trainer.callback_metrics["test/pass@1"]))
        return PassRates(rates[0], rates[1], seconds)


def _train(stages: _Stages, arm: str, flags: Sequence[str], seed: int) -> PassRates:
    name = f"{arm.split()[0].lower()}_seed_{seed}"
    seeds = [f"--seed_everything={seed}", f"--model.seed={seed}", f"--data.seed={seed}", f"--update.seed={seed}"]
    seconds = stages.timed(f"{arm}, seed {seed}", "fit", "pf_ppo.yaml", name, *flags, *seeds, f"--filter.seed={seed}")
    return stages.pass_rates(name, seconds)


def _mean_and_error(rates: Sequence[float], tasks: int) -> tuple[float, float]:
    mean = sum(rates) / len(rates)
    binomial = binomial_standard_error(mean, tasks)
    if len(rates) < 2:
        return mean, binomial
    variance = sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1)
    return mean, math.hypot(binomial, math.sqrt(variance / len(rates)))


def _as_json(results: CodeResults) -> dict[str, object]:
    return {
        "test_tasks": results.test_tasks,
        "sft": vars(results.sft),
        "reward_model_accuracy": results.reward_accuracy,
        "reliability": results.reliability,
        "arms": {arm: [vars(rates) for rates in seeds] for arm, seeds in results.arms.items()},
        "summary": results.summary(),
    }


def _draw(results: CodeResults, report: dict[str, dict[str, list[float]]]) -> None:
    """Left: the reward's reliability curve. Right: pass@1 before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    curve, bars = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for index, name in enumerate(("none", "best_worst")):
        fit = report[name]
        label = f"{'all samples' if name == 'none' else name}: $R^2$ = {results.reliability[name]['value']:.2f}"
        curve.plot(fit["bin_rewards"], fit["bin_scores"], "o-", color=("C7", "C1")[index], markersize=4, label=label)
    curve.set(xlabel="reward of the reward model", ylabel="share that passes its tests", ylim=(-0.02, 1.02))
    curve.set_title(f"how far the reward can be trusted (pair accuracy {results.reward_accuracy:.2f})", fontsize=9)
    curve.legend(frameon=False)
    curve.grid(alpha=0.3)
    names = ["SFT", *results.arms]
    for offset, (kind, before) in enumerate((("greedy", results.sft.greedy), ("sampled", results.sft.sampled))):
        points = [_mean_and_error([before], results.test_tasks)]
        points += [results.greedy(arm) if kind == "greedy" else results.sampled(arm) for arm in results.arms]
        places = [place + (offset - 0.5) * 0.38 for place in range(len(names))]
        means, errors = zip(*points, strict=True)
        bars.bar(places, means, 0.36, yerr=errors, capsize=4, label=kind, color=("C0", "C9")[offset])
    bars.set_xticks(range(len(names)), names, fontsize=9)
    seeds = len(next(iter(results.arms.values())))
    bars.set(ylabel="pass@1", ylim=(0, 1))
    bars.set_title(f"{results.test_tasks} unseen tasks, {seeds} seed{'s' * (seeds > 1)}, ± standard error", fontsize=9)
    bars.grid(axis="y", alpha=0.3)
    bars.legend(frameon=False)
    figure.savefig(results.picture, dpi=120)
