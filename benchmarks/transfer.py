"""What pretraining is worth on sets that it has not seen: linear probes, fine-tuning and k-shot episodes.

    python benchmarks/transfer.py [FOLDER] --pretrain A.npz B.npz --target C.npz [--shots 1 5 10 20] [--episodes 5]

Pretrains on the merged problem of the first sets (configs/medmnist/merged_*.yaml, MedMNIST files by path), then learns
each target from the weights (configs/transfer): the last layer alone, everything, and the last layer from k images a
class. Arms: `random`, a network that was not pretrained; `baseline`, plain pretraining; `noise_mask`, the heated
classifier. An episode draws its own images and its own last layer; of the probe and the fine-tuning an episode is a
seed. What has finished in FOLDER is not run again. About 15 CPU seconds an episode. Leaves transfer.md in FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arms import run
from arms_report import over_seeds
from noise_arms_report import last_values
from rich.console import Console
from rich.table import Table
from stages import ROOT, Folder, Stage

ARMS = ("random", "baseline", "noise_mask")
PROTOCOLS = ("linear_probe", "finetune")
SHOTS = (1, 5, 10, 20)
SCORES = {"balanced_accuracy": "balanced accuracy", "macro_auc": "AUC"}
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


def pretraining(arm: str, sets: Sequence[Path], flags: Sequence[str]) -> list[Stage]:
    """The stage that makes an arm's weights; none for a network that is not pretrained."""
    if arm == "random":
        return []
    config = ROOT / "configs" / "medmnist" / f"merged_{arm}.yaml"
    data = f"--data.path=[{','.join(str(path) for path in sets)}]"
    run_dir = f"pretrained/{arm}"
    command = ("tamis", "fit", f"--config={config}", f"--run_dir={run_dir}", data, "--seed_everything=0", *QUIET)
    return [Stage(f"pretrain_{arm}", (*command, *flags), (run_dir,))]


def episode(arm: str, protocol: str, target: Path, number: int, flags: Sequence[str]) -> list[Stage]:
    """Learning a target once, and the test of it; the protocol ``shots_5`` takes five images a class."""
    name = f"{target.stem}/{protocol}/{arm}/{number}"
    shots = protocol.removeprefix("shots_")
    config = ROOT / "configs" / "transfer" / f"{'few_shot' if shots != protocol else protocol}.yaml"
    own = (f"--data.shots={shots}", f"--data.shots_seed={number}") if shots != protocol else ()
    given = "null" if arm == "random" else f"pretrained/{arm}/model"

    def stage(subcommand: str, weights: str, *more: str) -> Stage:
        where = (f"--config={config}", f"--run_dir={name}/{subcommand}", f"--data.path={target}")
        command = ("tamis", subcommand, *where, f"--model.weights={weights}", f"--seed_everything={number}", *QUIET)
        return Stage(
            f"{name.replace('/', '_')}_{subcommand}", (*command, *own, *flags, *more), (f"{name}/{subcommand}",)
        )

    # A random network has no last layer to start afresh.
    fit = stage("fit", given, *(("--model.reset_head=false",) if arm == "random" else ()))
    return [fit, stage("test", f"{name}/fit/model", "--model.reset_head=false")]


def protocols(shots: Sequence[int]) -> list[str]:
    """All, the few shots first."""
    return [*(f"shots_{number}" for number in shots), *PROTOCOLS]


def lines_of(folder: Folder, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """A line a target and protocol: each arm's scores, and what pretraining adds to a random network's."""
    lines = []
    for target in options.target:
        for protocol in protocols(options.shots):
            scores = {
                arm: [
                    last_values(folder.path / target.stem / protocol / arm / str(number) / "test" / "metrics.csv")
                    for number in range(options.episodes)
                ]
                for arm in options.arms
            }
            for score, heading in SCORES.items():
                values = {arm: [test[f"test/{score}"] for test in tests] for arm, tests in scores.items()}
                cells = [over_seeds(values[arm]).text() for arm in options.arms]
                lines.append((target.stem, protocol, heading, *cells, *_gains(values)))
    return lines


def _gains(values: dict[str, list[float]]) -> list[str]:
    """Of each arm over the first, paired by episode."""
    first, *others = values.values()
    return [over_seeds([one - base for one, base in zip(other, first, strict=True)]).text(sign="+") for other in others]


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/transfer"), help="default: %(default)s")
    parser.add_argument("--pretrain", nargs="+", type=Path, required=True, metavar="NPZ", help="sets to learn from")
    parser.add_argument("--target", nargs="+", type=Path, required=True, metavar="NPZ", help="sets to transfer to")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--shots", nargs="*", type=int, default=SHOTS, help="images a class (1 5 10 20)")
    parser.add_argument("--episodes", type=int, default=5, help="of every target and protocol (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    parser.add_argument("--flag", action="append", default=[], metavar="FLAG", help="for every training and test")
    options = parser.parse_args()
    for name in ("episodes", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    for path in (*options.pretrain, *options.target):
        if not path.is_file():
            parser.error(f"{path} does not exist; give files in MedMNIST's format, such as organamnist.npz")
    seen = {path.resolve() for path in options.pretrain} & {path.resolve() for path in options.target}
    if seen:
        parser.error(f"{', '.join(path.name for path in sorted(seen))}: a target must not be pretrained on")
    options.pretrain, options.target = (
        [path.resolve() for path in paths] for paths in (options.pretrain, options.target)
    )
    return options


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = options_of(parser)
    folder = Folder(options.folder, {"pretrain": [path.name for path in options.pretrain], "flag": options.flag})
    first = [stage for arm in options.arms for stage in pretraining(arm, options.pretrain, options.flag)]
    work = [
        episode(arm, protocol, target, number, options.flag)
        for target in options.target
        for protocol in protocols(options.shots)
        for number in range(options.episodes)
        for arm in options.arms
    ]
    try:
        run(folder, first, work, options.jobs)
    except RuntimeError as error:
        sys.exit(str(error))
    gains = [f"{arm} - {options.arms[0]}" for arm in options.arms[1:]]
    header = ("target", "protocol", "score", *options.arms, *gains)
    lines = lines_of(folder, options)
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    note = (
        f"Pretrained on {', '.join(path.stem for path in options.pretrain)} (one seed); mean of {options.episodes} "
        f"episodes ± its standard error over them, on the whole test split; commit {folder.commit}."
    )
    console.print(note, highlight=False)
    rows = "".join(f"| {' | '.join(line)} |\n" for line in (header, ("---",) * len(header), *lines))
    (folder.path / "transfer.md").write_text(f"{rows}\n{note}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
