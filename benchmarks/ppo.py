"""CPU seconds of a round of the loop: against TRL's PPO, PF-PPO against PPO-M, and the trainer against a bare loop.

    python benchmarks/ppo.py [--trl-python PATH] [--repeats 3] [--iterations 12]

A 2-layer 64-wide Qwen2 of 512 tokens, 64 prompts of up to 32 tokens, 48 new tokens, micro-batches of 16, one epoch, a
learned reward, a reference, on one thread; the critic has a trunk of its own, as TRL's, unless a row says otherwise.
Every measurement has a process of its own and they take turns; a process's number is the median of its iterations but
the first two, and the least of the repeats counts. TRL 1.12.0, the last release with PPO, is never installed here: give
the interpreter of a virtual environment that has it (`python -m venv trl && trl/bin/pip install trl==1.12.0`). Its
calls of `gc.collect` are left out of the comparison. It samples 48 tokens for every prompt, also after an end token;
therefore the comparison is by the sampled token, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from rich.console import Console
from rich.progress import track
from rich.table import Table
from workloads import MICROBATCH, NEW_TOKENS, PROMPTS, apart, read_rows, spread, write_small

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

    from tamis.callbacks import PolicyCallback
    from tamis.modules import CodePolicy

WARM_UP = 2  # iterations that do not count


class Kind(NamedTuple):
    """What is measured.

    Attributes:
        samples: responses a prompt.
        strategy: of the filter.
        critic: ``own_trunk`` is what TRL has, ``shared_trunk`` the default here.
        trainer: False for a bare loop that calls the same functions.
    """

    samples: int = 1
    strategy: str = "none"
    critic: Literal["shared_trunk", "own_trunk"] = "own_trunk"
    trainer: bool = True


KINDS = {
    "PPO": Kind(),
    "PPO, shared trunk": Kind(critic="shared_trunk"),
    "bare loop": Kind(trainer=False),
    "PPO-M": Kind(5),
    "best_random": Kind(5, "best_random"),
    "best_worst": Kind(5, "best_worst"),
    "PPO-M, shared trunk": Kind(5, critic="shared_trunk"),
    "best_worst, shared trunk": Kind(5, "best_worst", "shared_trunk"),
}
RATIOS = (
    ("PPO", "TRL without gc", "at most 0.5"),
    ("PPO, shared trunk", "TRL without gc", ""),
    ("best_random", "PPO-M", "at most 0.6"),
    ("best_worst", "PPO-M", "at most 0.6"),
    ("best_worst, shared trunk", "PPO-M, shared trunk", "at most 0.6"),
    ("PPO", "bare loop", "below 1.05"),
)


def measure(kind: Kind, folder: Path, iterations: int) -> dict[str, Any]:
    """CPU seconds and sampled tokens of each iteration."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    module, callbacks, data = parts(kind, folder, iterations)
    with tempfile.TemporaryDirectory() as logs:
        if kind.trainer:
            return run_trainer(module, callbacks, data, logs)
        return run_bare(module, callbacks, data)


def parts(kind: Kind, folder: Path, iterations: int) -> tuple[CodePolicy, list[PolicyCallback], DataLoader[Any]]:
    """The module, its callbacks and the prompts."""
    import torch
    from torch.utils.data import DataLoader

    from tamis.callbacks import Filtration, PPOUpdate, RolloutMetrics
    from tamis.modules import CodePolicy
    from tamis.modules.rewards import LearnedReward

    module = CodePolicy(
        str(folder / "policy"),
        reward=LearnedReward(str(folder / "reward")),
        num_samples=kind.samples,
        max_new_tokens=NEW_TOKENS,
        critic=kind.critic,
        policy_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-6),
        critic_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-6),
        max_iterations=iterations,
    )
    callbacks: list[PolicyCallback] = [RolloutMetrics()]
    if kind.strategy != "none":
        callbacks.append(Filtration(cast("Any", kind.strategy), keep=2))
    callbacks.append(PPOUpdate(microbatch_size=MICROBATCH, kl_coef=0.01))
    rows: Any = read_rows(folder / "prompts.jsonl")[: PROMPTS * iterations]
    return module, callbacks, DataLoader(rows, batch_size=PROMPTS, collate_fn=list)


def run_trainer(
    module: CodePolicy, callbacks: Sequence[PolicyCallback], data: DataLoader[Any], logs: str
) -> dict[str, Any]:
    """The way of every run: the trainer, its logger, its hooks."""
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import CSVLogger

    from tamis.callbacks import PolicyCallback

    starts: list[float] = []
    tokens: list[int] = []

    class Clock(PolicyCallback):
        """Takes the time between the starts of two iterations, so that nothing in between is missed."""

        def on_train_batch_start(self, *_: object) -> None:
            starts.append(time.process_time())

        def on_rollout(self, trainer: Trainer, module: Any, rollout: Any) -> Any:  # noqa: ANN401
            tokens.append(int(rollout.response_mask.sum()))
            return rollout

    everything: list[Callback] = [Clock(), *callbacks]
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=CSVLogger(logs),
        log_every_n_steps=1,
        callbacks=everything,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)
    return result(starts, tokens)


def run_bare(module: CodePolicy, callbacks: Sequence[PolicyCallback], data: DataLoader[Any]) -> dict[str, Any]:
    """The same functions in the same order, without the trainer's hooks, its optimisers' wrappers and its logging."""
    from lightning.pytorch import Trainer

    from tamis.callbacks import PolicyUpdate

    update = next(callback for callback in callbacks if isinstance(callback, PolicyUpdate))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)  # answers questions, runs nothing
    unhook(module, trainer)
    starts: list[float] = []
    tokens: list[int] = []
    for batch in data:
        starts.append(time.process_time())
        rollout = module.reward(module.act(batch))
        tokens.append(int(rollout.response_mask.sum()))
        for callback in callbacks:
            rollout = callback.on_rollout(trainer, module, rollout)
        rollout = module.complete(rollout)
        stats = update.update(trainer, module, rollout)
        module.iteration += 1
        for callback in callbacks:
            callback.on_update_end(trainer, module, rollout, stats)
    return result(starts, tokens)


def unhook(module: CodePolicy, trainer: Trainer) -> None:
    """Replaces what the module asks of the trainer by the bare thing."""
    import torch

    module.trainer = trainer
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-6) for network in module.networks().values()]
    trainer.strategy._optimizers = list(optimizers)  # RolloutMetrics reads their learning rates

    def nothing(*_: object, **__: object) -> None: ...

    def backward(loss: torch.Tensor, retain_graph: bool = False) -> None:
        loss.backward(retain_graph=retain_graph)

    replaced: Mapping[str, Any] = {
        "log": nothing,
        "log_dict": nothing,
        "optimizers": lambda: optimizers,
        "manual_backward": backward,
    }
    for name, function in replaced.items():
        object.__setattr__(module, name, function)


def result(starts: list[float], tokens: list[int]) -> dict[str, Any]:
    """The whole iterations; the last has no end."""
    cpu_s = [end - start for start, end in itertools.pairwise(starts)]
    return {"cpu_s": cpu_s, "tokens": tokens[: len(cpu_s)]}


class Measured(NamedTuple):
    """One process: medians over its iterations."""

    cpu_s: float
    tokens: float

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Measured:
        """The iterations after the warm-up."""
        return cls(*(statistics.median(numbers[name][WARM_UP:]) for name in ("cpu_s", "tokens")))


def report(measured: Mapping[str, list[Measured]], console: Console) -> None:
    """Prints the seconds, then the ratios beside what was aimed at."""
    per_token = {name: min(run.cpu_s / run.tokens for run in runs) for name, runs in measured.items()}
    table = Table("one iteration", "CPU s, least (to most) of the repeats", "tokens sampled", "CPU s / 1,000 tokens")
    for name, runs in measured.items():
        seconds, sampled = spread([run.cpu_s for run in runs], 3), statistics.median(run.tokens for run in runs)
        table.add_row(name, seconds, f"{sampled:.0f}", f"{1000 * per_token[name]:.3f}")
    console.print(table)
    least = {name: min(run.cpu_s for run in runs) for name, runs in measured.items()}
    ratios = Table("ratio", "of the least", "of each turn", "aim")
    for top, bottom, aim in RATIOS:
        if bottom in measured:
            each = [a.cpu_s / b.cpu_s for a, b in zip(measured[top], measured[bottom], strict=True)]
            ratios.add_row(
                f"{top} / {bottom}",
                f"{least[top] / least[bottom]:.3f}",
                " ".join(f"{ratio:.3f}" for ratio in each),
                aim,
            )
    console.print(ratios)
    if "TRL without gc" in measured:
        console.print(f"PPO / TRL without gc, by the token: {per_token['PPO'] / per_token['TRL without gc']:.3f}")
    else:
        console.print("TRL's PPO was not measured: give --trl-python, the interpreter of an environment with it.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", help="interpreter of a virtual environment with trl==1.12.0")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind, of which the least counts")
    parser.add_argument("--iterations", type=int, default=12, help="rounds of the loop in each measurement")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help="measure one in this process, print JSON")
    options = parser.parse_args()
    if options.iterations < WARM_UP + 2:
        parser.error(f"--iterations must be at least {WARM_UP + 2}: the first {WARM_UP} and the last do not count")
    if options.one:
        print(json.dumps(measure(KINDS[options.one[0]], Path(options.one[1]), options.iterations)))
        return
    trl = {"TRL without gc": "none", "TRL as it is": "collect"} if options.trl_python else {}
    measured: dict[str, list[Measured]] = {name: [] for name in [*trl, *KINDS]}
    jobs = [name for _ in range(options.repeats) for name in measured]
    iterations = str(options.iterations)
    with tempfile.TemporaryDirectory() as folder:
        write_small(Path(folder), options.iterations)
        for name in track(jobs, "measuring", console=Console(stderr=True)):
            if name in trl:
                script = Path(__file__).with_name("trl_ppo.py")
                numbers = apart(options.trl_python, script, folder, iterations, trl[name])
            else:
                numbers = apart(sys.executable, Path(__file__), "--iterations", iterations, "--one", name, folder)
            measured[name].append(Measured.of(numbers))
    report(measured, Console(width=110))


if __name__ == "__main__":
    main()
