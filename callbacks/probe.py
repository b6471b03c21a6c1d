"""A fixed set of tasks that is sampled again and again during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..datamodules import CodeTasks
from ..datamodules.code_tasks import task_record
from ..datamodules.task_files import load_tasks
from ..functional import Divergence, distinct_n, divergence
from ..modules import CodePolicy
from ..modules.code_evaluation import each_once, gather
from ..modules.prompts import prompt_tokens
from .reliability_report import Row, lost_tasks, matrices

Record = dict[str, Any]


@dataclass(frozen=True)
class Probed:
    """What one measurement of the probe set found.

    Args:
        iteration: of the policy, before its update.
        tasks: ids of the P tasks that have all their verdicts.
        rewards: ``[P, N]``.
        passed: ``[P, N]`` 1.0 where the tests passed.
        length: mean tokens of a response.
        distinct_2: see `tamis.functional.distinct_n`.
    """

    iteration: int
    tasks: list[str]
    rewards: Tensor
    passed: Tensor
    length: float
    distinct_2: float

    def means(self) -> dict[str, tuple[float, float]]:
        """Mean reward and pass rate of each task."""
        pairs = zip(self.rewards.mean(dim=1).tolist(), self.passed.mean(dim=1).tolist(), strict=True)
        return dict(zip(self.tasks, pairs, strict=True))


def probe_records(source: int | str, trainer: Trainer) -> list[Record]:
    """The probe set's tasks, as the run's own data put tasks.

    Args:
        source: a source of tasks as of `CodeTasks`, or how many of the validation tasks.
        trainer: of the run.

    Raises:
        ValueError: naming the way out, if there are no such tasks, or two of one id.
    """
    data = getattr(trainer, "datamodule", None)
    if isinstance(source, str):
        style = data.prompt_style if isinstance(data, CodeTasks) else "auto"
        shots = load_tasks(data.shots) if isinstance(data, CodeTasks) and data.shots else []
        records = [task_record(row, style, shots) for row in load_tasks(source)]
    else:
        records = data.records.get("validation", [])[:source] if isinstance(data, CodeTasks) else []
        if len(records) < source:
            raise ValueError(
                f"probe={source} takes that many validation tasks, and this run has {len(records)}; set "
                "`--data.validation FILE`, or name a file instead: probe=FILE[:50]"
            )
    ids = [str(record["task_id"]) for record in records]
    if len(set(ids)) < len(ids):
        twice = next(task_id for task_id in ids if ids.count(task_id) > 1)
        raise ValueError(f"the probe set has the task_id {twice!r} more than once; give every task an id of its own")
    return records


def check_prompts(module: CodePolicy, records: Sequence[Record]) -> None:
    """Look at every prompt before training starts.

    Raises:
        ValueError: for a prompt that is empty or too long.
    """
    prompt_tokens(module.tokenizer, records, module.prompt_format, module.limits)


def sample_probe(
    trainer: Trainer, module: CodePolicy, records: Sequence[Record], samples: int, rows_at_once: int
) -> list[Row]:
    """Samples of all tasks with rewards and verdicts, on every rank; each rank draws those of its share of the tasks.

    A sample's draw hangs on the module's seed, its task and its number: two measurements differ by the policy alone.

    Args:
        trainer: of the run.
        module: the policy of this moment.
        records: the probe set.
        samples: responses a task.
        rows_at_once: responses sampled at a time, so that a probe needs no more memory than training.
    """
    own = records[trainer.global_rank :: trainer.world_size]
    size = max(1, rows_at_once // samples)
    rows: list[Record] = []
    with torch.no_grad():
        for start in range(0, len(own), size):
            rows += module.judged_samples(own[start : start + size], samples, module.temperature)
    wanted = ("task_id", "prompt", "sample", "completion", "status", "passed", "reward")
    return each_once(gather([{key: row[key] for key in wanted} for row in rows]))


def probed(module: CodePolicy, rows: Sequence[Row], least: int) -> Probed | None:
    """Count what was sampled; ``None``, with a warning, if fewer than ``least`` tasks can be counted."""
    left = len({row["task_id"] for row in rows}) - len(lost_tasks(rows))
    if left < least:
        rank_zero_warn(
            f"the probe set was not measured at iteration {module.iteration}: {left} tasks have all their verdicts and "
            f"rewards, and {least} are needed"
        )
        return None
    tasks, rewards, passed = matrices(rows)
    tokens = [module.tokenizer(row["completion"], add_special_tokens=False)["input_ids"] for row in rows]
    length = sum(map(len, tokens)) / len(tokens)
    return Probed(module.iteration, tasks, rewards, passed, length, distinct_n(tokens, 2))


class Watch:
    """Compares each measurement with the earlier one of the highest pass rate: a policy may first learn, then cheat.

    Args:
        threshold: standard errors, see `tamis.functional.divergence`.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.best: Mapping[str, tuple[float, float]] = {}
        self.best_iteration = 0
        self.parted = False

    def compare(self, now: Probed) -> tuple[Divergence | None, str | None]:
        """How reward and pass rate have moved, and a warning if they have parted since the last measurement.

        Tasks that lost their verdicts in either measurement are left out; with fewer than two there is no comparison.
        """
        means = now.means()
        common = [task for task in means if task in self.best]
        found = warning = None
        if len(common) >= 2:
            old, new = ([values[task] for task in common] for values in (self.best, means))
            columns = [torch.tensor(values, dtype=torch.float64).T for values in (old, new)]
            found = divergence(columns[0][0], columns[1][0], columns[0][1], columns[1][1], self.threshold)
            if found.parted and not self.parted:
                warning = self._warning(found, columns, now.iteration)
            self.parted = found.parted
        if not common or _pass_rate(means) > _pass_rate(self.best):
            self.best, self.best_iteration = means, now.iteration
        return found, warning

    def state_dict(self) -> dict[str, Any]:
        """What the next comparison needs."""
        return {"best": dict(self.best), "best_iteration": self.best_iteration, "parted": self.parted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_iteration, self.parted = state["best"], state["best_iteration"], state["parted"]

    def _warning(self, found: Divergence, columns: Sequence[Tensor], iteration: int) -> str:
        (reward_old, pass_old), (reward_new, pass_new) = (values.mean(dim=1).tolist() for values in columns)
        return (
            f"reward and verified pass rate have parted on the probe set: from iteration {self.best_iteration} to "
            f"{iteration} the mean reward rose from {reward_old:.3f} to {reward_new:.3f} ({found.reward_z:+.1f} "
            f"standard errors) while the pass rate fell from {pass_old:.3f} to {pass_new:.3f} ({found.score_z:+.1f}). "
            "The policy may be exploiting the reward: read its answers (RolloutTable), raise kl_coef, or go back to a "
            f"checkpoint of about iteration {self.best_iteration}"
        )


def _pass_rate(means: Mapping[str, tuple[float, float]]) -> float:
    return sum(passed for _, passed in means.values()) / len(means) if means else -math.inf
