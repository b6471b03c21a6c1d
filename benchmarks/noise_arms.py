"""The noise mask against its controls: every arm is trained, fine-tuned alike and tested, with several seeds.

    python benchmarks/noise_arms.py [FOLDER] [--seeds 3] [--arms none cooperative ...] [--jobs 1] [--npz PATH]

Drives the configs through the command line, a process a stage, one thread each: those of configs/quickstart on
phantoms, or with --npz those of configs/medmnist on a real set in MedMNIST's format. The published objective multiplies
the classifier's learning rate by about 2 log G, so the controls include plain training at that rate, and the objective
with the factor divided out. What has finished in FOLDER is not run again, so that a run can be broken off, and seeds
and arms added. One to two CPU minutes an arm and seed. Leaves arms.json, arms.md and pictures of the masks in FOLDER.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from arms import run
from noise_arms_report import report
from rich.console import Console
from stages import ROOT, Folder, Stage

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")
LR = 0.1  # of the configs' classifier
ENVIRONMENT = "--update=EnvironmentUpdate"


class Problem(NamedTuple):
    """Where the images come from.

    Attributes:
        configs: the beginning of the configs' paths.
        data: the flag that names the data.
        grid: the published mask's cells a side, in the proportion that 64 have to 224 pixels, or finer.
        kernel_size: of its blur.
        sigma: of its blur.
    """

    configs: str
    data: str
    grid: int
    kernel_size: int
    sigma: float

    @property
    def fine(self) -> tuple[str, ...]:
        """The published masks: one an image, many cells, not normalised."""
        shape = (f"--model.grid={self.grid}", f"--model.kernel_size={self.kernel_size}", f"--model.sigma={self.sigma}")
        return (*shape, "--model.masks_per_image=1", "--model.mask_normalisation=none")

    @property
    def factor(self) -> float:
        """What the published objective multiplies the classifier's learning rate by, once cells are uniform."""
        return 2 * math.log(self.grid)


class Arm(NamedTuple):
    """One way to make the weights that are fine-tuned.

    Attributes:
        config: of its first stage.
        flags: what is changed of it.
    """

    config: str
    flags: tuple[str, ...] = ()


def arms_of(problem: Problem) -> dict[str, Arm]:
    """Every arm, the controls first."""
    sgd = "--model.policy_optimizer.class_path=torch.optim.SGD"
    rates = [
        f"--model.policy_optimizer.init_args.{option}" for option in ("lr=0.01", "momentum=0.9", "weight_decay=1e-4")
    ]
    published = (*problem.fine, "--model.objective=official", ENVIRONMENT, "--model.decay=0.9", sgd, *rates)
    # An update's entropy bonus is no part of an objective that hands over its loss.
    path = ("--model.objective=pathwise", ENVIRONMENT, "--model.regulariser=entropy", "--model.regulariser_coef=0.1")
    adversary = "--model.sign=adversarial"
    return {
        "none": Arm("baseline"),
        "none_fast": Arm("baseline", (f"--model.optimizer.init_args.lr={LR * problem.factor:.4f}",)),
        "random": Arm("random_mask"),
        "random_fine": Arm("random_mask", problem.fine),
        "official": Arm("noise_mask", published),
        "official_divided": Arm("noise_mask", (*published, "--model.divide_lr_factor=true")),
        "cooperative": Arm("noise_mask"),
        "adversarial": Arm("noise_mask", (adversary,)),
        "pathwise": Arm("noise_mask", path),
        "pathwise_adversarial": Arm("noise_mask", (*path, adversary)),
    } | {
        kind: Arm("baseline", (f"--data.noise.kind={kind}",))
        for kind in ("gaussian", "rician", "gibbs", "k_space_spike")
    }


PROBLEMS = {
    "phantoms": Problem("quickstart/phantoms_", "--data.root", 24, 5, 2.57),  # 48 pixels
    "medmnist": Problem("medmnist/", "--data.path", 14, 3, 1.5),  # 28 pixels
}
DEFAULT = tuple(arms_of(PROBLEMS["phantoms"]))[:9]


def chain(problem: Problem, data: str, name: str, arm: Arm, seed: int, further: Sequence[str]) -> list[Stage]:
    """One arm with one seed: pretraining, the same fine-tuning for all, the test."""

    def command(subcommand: str, config: str, stage: str, *flags: str) -> Stage:
        run_dir = f"{name}_seed_{seed}/{stage}"
        path = ROOT / "configs" / f"{problem.configs}{config}.yaml"
        where = (f"--config={path}", f"--run_dir={run_dir}", f"{problem.data}={data}", f"--seed_everything={seed}")
        return Stage(f"{name}_seed_{seed}_{stage}", ("tamis", subcommand, *where, *QUIET, *flags), (run_dir,))

    weights = [f"--model.weights={name}_seed_{seed}/{stage}/model" for stage in ("pretrain", "finetune")]
    return [
        command("fit", arm.config, "pretrain", *arm.flags, *further),
        command("fit", "finetune", "finetune", weights[0], *further),
        command("test", "finetune", "test", weights[1]),
    ]


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line."""
    names = list(arms_of(PROBLEMS["phantoms"]))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/noise_arms"), help="default: %(default)s")
    parser.add_argument("--npz", type=Path, help="a real set in MedMNIST's format; phantoms without it")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of every arm (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=names, default=DEFAULT, metavar="ARM", help=", ".join(names))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="a flag for every training; may be repeated: --flag=--trainer.limit_train_batches=0.5",
    )
    options = parser.parse_args()
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.npz is not None and not options.npz.is_file():
        parser.error(f"--npz {options.npz} does not exist; give a MedMNIST file, such as organamnist.npz")
    return options


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = options_of(parser)
    problem = PROBLEMS["phantoms" if options.npz is None else "medmnist"]
    data = "phantoms" if options.npz is None else str(options.npz.resolve())
    folder = Folder(options.folder, {"data": Path(data).name, "flag": options.flag})
    arms = arms_of(problem)
    work = [
        chain(problem, data, name, arms[name], seed, options.flag)
        for seed in range(options.seeds)
        for name in options.arms
    ]
    # Phantoms are drawn by the first training; the others wait for them.
    first, rest = (work[:1], work[1:]) if options.npz is None else ([], work)
    try:
        run(folder, first[0] if first else [], rest, options.jobs)
    except RuntimeError as error:
        sys.exit(str(error))
    report(folder, options.arms, options.seeds, Console(width=None if sys.stdout.isatty() else 190))


if __name__ == "__main__":
    main()
