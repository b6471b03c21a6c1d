"""PPO-S, PPO-M and the filters on the quickstart's model: pass@1 with errors, and the CPU seconds of training.

    python benchmarks/arms.py [FOLDER] [--seeds 3] [--arms ppo_m best_worst ...] [--jobs 1]

Drives configs/quickstart through the command line, a process a stage, one thread each. Tasks, SFT model, pairs and
reward model are made once; every arm is trained from them with every seed and tested on the quickstart's test tasks,
greedily and with samples at temperature 1. What has finished in FOLDER is not run again, so that a run can be broken
off, and seeds and arms added. About a CPU minute an arm and seed. Leaves arms.json and arms.md in FOLDER.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from arms_report import report
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from stages import ROOT, Folder, Stage

HOME = "runs/quickstart"  # where the configs look for files, from the folder
CPU = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


class Arm(NamedTuple):
    """One way of learning.

    Attributes:
        config: of configs/quickstart.
        flags: what is changed of it.
        filtered: whether it has a filter, whose draws want a seed, too.
    """

    config: str
    flags: tuple[str, ...] = ()
    filtered: bool = False


def _filter(strategy: str) -> Arm:
    return Arm("pf_ppo.yaml", (f"--filter.strategy={strategy}",), True)


#: The filters keep two of five. The last two take as many optimiser steps an iteration as the filters, with larger
#: minibatches; the configs' own PPO-S and PPO-M take minibatches as large as the filters', and more steps.
ARMS = {
    "ppo_s": Arm("ppo_s.yaml"),
    "ppo_m": Arm("ppo_m.yaml"),
    "best_random": _filter("best_random"),
    "best_worst": _filter("best_worst"),
    "best_of_n": _filter("best_of_n"),
    "random": _filter("random"),
    "ppo_s_two_steps": Arm("ppo_s.yaml", ("--update.minibatch_size=160",)),
    "ppo_m_two_steps": Arm("ppo_m.yaml", ("--update.minibatch_size=160",)),
}
DEFAULT = ("ppo_s", "ppo_m", "best_random", "best_worst", "best_of_n", "random")


def command(subcommand: str, config: str, name: str, *flags: str) -> Stage:
    """One ``tamis`` command with a config of the quickstart, into the run directory that its header names."""
    run_dir = f"{HOME}/{name}"
    where = (f"--config=configs/quickstart/{config}", f"--run_dir={run_dir}")
    return Stage(name, ("tamis", subcommand, *where, *CPU, *flags), (run_dir,))


def shared(test_tasks: int) -> list[Stage]:
    """What every arm starts from."""
    made = (f"{HOME}/tasks", f"{HOME}/untrained")
    return [
        Stage("quickstart", ("tamis.quickstart", HOME, f"--test={test_tasks}"), made),
        command("fit", "sft.yaml", "sft"),
        command("predict", "preferences.yaml", "preferences"),
        command("fit", "reward_model.yaml", "reward_model"),
    ]


def tested(model: str, name: str, samples: int, seed: int) -> Stage:
    """pass@1 of the model that a stage left: greedily with ``samples`` 0, otherwise at temperature 1."""
    draws = (f"--model.eval_samples={samples}", "--model.eval_temperature=1.0", f"--model.seed={seed}")
    model_flag = f"--model.model_name_or_path={HOME}/{model}/model"
    # Its table and result file hold every task's verdicts, which pair the arms task by task.
    return command(
        "test", "pass_at_1.yaml", name, model_flag, "--trainer.callbacks=CompletionTable", *(draws if samples else ())
    )


def trained(arm: str, seed: int, further: Sequence[str]) -> Stage:
    """The arm's training with one seed."""
    config, flags, filtered = ARMS[arm]
    seeds = [f"--seed_everything={seed}", *(f"--{part}.seed={seed}" for part in ("model", "data", "update"))]
    seeds += [f"--filter.seed={seed}"] if filtered else []
    return command("fit", config, f"{arm}_seed_{seed}", *flags, *seeds, *further)


def chains(arms: Sequence[str], seeds: int, samples: int, further: Sequence[str]) -> list[list[Stage]]:
    """What may run at the same time, seed by seed, so that a run that is broken off has whole seeds."""
    # A training without a step costs what no arm can save.
    idle = command("fit", "ppo_m.yaml", "start_up", "--trainer.limit_train_batches=0")
    work = [[idle], [tested("sft", "sft_greedy", 0, 0)]]
    for seed in range(seeds):
        # The same seed draws the same numbers for the SFT model as for the arms: the gain is paired.
        work.append([tested("sft", f"sft_sampled_seed_{seed}", samples, seed)])
        for arm in arms:
            name = f"{arm}_seed_{seed}"
            evaluations = [tested(name, f"{name}_greedy", 0, seed), tested(name, f"{name}_sampled", samples, seed)]
            work.append([trained(arm, seed, further), *evaluations])
    return work


def take(folder: Folder, source: Path) -> None:
    """Copy tasks, SFT model and reward model of an earlier quickstart, unless they are there."""
    for name in ("tasks", "sft/model", "reward_model/model"):
        target = folder.path / HOME / name
        if not (source / name).is_dir():
            sys.exit(f"{source} is no quickstart's folder: it has no {name}")
        if not target.exists():
            shutil.copytree(source / name, target)


def take_configs(folder: Folder) -> None:
    """Copy the configs, which the commands name as the documents do; ones that changed since are refused."""
    target = folder.path / "configs" / "quickstart"
    target.mkdir(parents=True, exist_ok=True)
    for config in sorted((ROOT / "configs" / "quickstart").glob("*.yaml")):
        copy = target / config.name
        if copy.exists() and copy.read_text(encoding="utf-8") != config.read_text(encoding="utf-8"):
            sys.exit(f"{config} has changed since {folder.path} was begun, and arms would differ. Take a new folder.")
        shutil.copyfile(config, copy)


def run(folder: Folder, first: Sequence[Stage], work: Sequence[Sequence[Stage]], jobs: int) -> None:
    """Everything that has not finished, with a bar."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total = len(first) + sum(len(chain) for chain in work)
        bar, running = progress.add_task("", total=total), list[str]()
        tell = _teller(progress, bar, running)
        folder.run_all([first], 1, tell)
        folder.run_all(work, jobs, tell)


def _teller(progress: Progress, bar: object, running: list[str]) -> Callable[[str, bool], None]:
    def tell(name: str, ended: bool) -> None:
        (running.remove if ended else running.append)(name)
        progress.update(bar, advance=float(ended), description=", ".join(running))  # type: ignore[arg-type]

    return tell


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/arms"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of every arm (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    parser.add_argument("--samples", type=int, default=5, help="samples a task at temperature 1 (%(default)s)")
    parser.add_argument(
        "--test_tasks", type=int, default=1000, help="tasks that every model is tested on (%(default)s)"
    )
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="a flag for the training of every arm; may be repeated: --flag=--model.max_iterations=1",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="QUICKSTART",
        help="take all tasks, the SFT model and the reward model from there, such as runs/quickstart, not make them",
    )
    options = parser.parse_args()
    for name in ("seeds", "jobs", "samples", "test_tasks"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = options_of(parser)
    start = None if options.start is None else str(options.start.resolve())
    settings = {name: getattr(options, name) for name in ("samples", "test_tasks", "flag")} | {"start": start}
    folder = Folder(options.folder, settings)
    take_configs(folder)
    if options.start is not None:
        take(folder, options.start)
    first = [] if options.start is not None else shared(options.test_tasks)
    work = chains(options.arms, options.seeds, options.samples, options.flag)
    try:
        run(folder, first, work, options.jobs)
    except RuntimeError as error:
        sys.exit(str(error))
    report(folder, HOME, options.arms, options.seeds, Console(width=None if sys.stdout.isatty() else 170))


if __name__ == "__main__":
    main()
