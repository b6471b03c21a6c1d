"""What the evaluation of a code policy measures: pass@k with its interval, and what became of every sample."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from ..execution import Status
from ..functional import bootstrap_interval, pass_at_k, pass_at_k_per_problem

Row = Mapping[str, Any]
_Item = TypeVar("_Item")

CONFIDENCE = 0.95
RESAMPLES = 10_000
EXTRACTION_FAILED = "extraction_failed"


@dataclass(frozen=True)
class EvaluationSettings:
    """How tasks are sampled when validating and testing.

    Args:
        samples: n, samples a task.
        temperature: of the samples; 0 is greedy.
        top_p: of the samples.
        pass_at: the k of each pass@k.

    Raises:
        ValueError: for settings whose numbers would mean something else than they say.
    """

    samples: int
    temperature: float
    top_p: float
    pass_at: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.samples < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "evaluation needs eval_samples >= 1, eval_temperature >= 0 and 0 < eval_top_p <= 1, got "
                f"{self.samples}, {self.temperature} and {self.top_p}"
            )
        if self.temperature == 0 and (self.samples > 1 or self.top_p < 1):
            raise ValueError(
                "eval_temperature 0 is greedy: every sample of a task is the same text, so that "
                f"eval_samples={self.samples} and eval_top_p={self.top_p} would say nothing. Leave both at 1, or set "
                "eval_temperature above 0."
            )
        if not self.pass_at or any(not 1 <= k <= self.samples for k in self.pass_at):
            raise ValueError(
                f"pass_at={list(self.pass_at)} needs one k or more, each from 1 to eval_samples={self.samples}; "
                "draw more samples of each task or ask for a smaller k"
            )

    @property
    def mode(self) -> Literal["greedy", "sampled"]:
        """Numbers of the two kinds do not belong into one column."""
        return "greedy" if self.temperature == 0 else "sampled"


class PassAtK(NamedTuple):
    """pass@k over the problems that have at least k verdicts, with its interval; NaN where there are none."""

    value: float
    low: float
    high: float
    problems: int


@dataclass(frozen=True)
class Measurement:
    """What an evaluation found.

    Attributes:
        pass_at: the estimate of each k.
        problems: problems that were sampled.
        problems_without_verdict: those of them that the sandbox gave no verdict on; they are in no estimate.
        samples: samples of all problems.
        outcomes: how many samples ended in which way: a `Status`, or ``extraction_failed`` for an answer in which
            no code was found. They add up to ``samples``.
        truncated: samples that ended at the length limit.
    """

    pass_at: dict[int, PassAtK]
    problems: int
    problems_without_verdict: int
    samples: int
    outcomes: dict[str, int]
    truncated: int

    def metrics(self) -> dict[str, float]:
        """Numbers to log; the names are the same whatever happened."""
        numbers: dict[str, float] = {}
        for k, estimate in self.pass_at.items():
            numbers |= {f"pass@{k}": estimate.value, f"pass@{k}_low": estimate.low, f"pass@{k}_high": estimate.high}
        numbers |= {f"{outcome}_rate": count / self.samples for outcome, count in self.outcomes.items()}
        return numbers | {"truncated_rate": self.truncated / self.samples}


def measure(rows: Sequence[Row], pass_at: Sequence[int]) -> Measurement:
    """Count and estimate.

    A fault of the sandbox (``internal``) says nothing about the model: such a sample is left out, its problem's n
    shrinks, and a problem with fewer than k verdicts is left out of pass@k.

    Args:
        rows: the judged samples, each once (see `each_once`).
        pass_at: the k of each pass@k.
    """
    problems: dict[str, list[Row]] = {}
    for row in sorted(rows, key=place):
        problems.setdefault(str(row["task_id"]), []).append(row)
    judged = [[row["passed"] for row in group if row["status"] != Status.INTERNAL] for group in problems.values()]
    counts = Counter(outcome(row) for row in rows)
    return Measurement(
        pass_at={k: _estimate([group for group in judged if len(group) >= k], k) for k in pass_at},
        problems=len(problems),
        problems_without_verdict=sum(not group for group in judged),
        samples=len(rows),
        outcomes={name: counts[name] for name in (*map(str, Status), EXTRACTION_FAILED)},
        truncated=sum(row["truncated"] for row in rows),
    )


def outcome(row: Row) -> str:
    """The sample's status, or that no code was found in the answer, which is no wrong program."""
    failed = row["status"] not in (Status.PASSED, Status.INTERNAL)
    return EXTRACTION_FAILED if failed and not row["extracted"] else str(row["status"])


def each_once(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """All ranks' samples, in the order of their ids, each once: distributed samplers pad by repeating tasks.

    Args:
        parts: the samples of each rank.

    Raises:
        ValueError: if two tasks have one id, so that their samples could not be told apart.
    """
    seen: dict[tuple[str, int], Row] = {}
    for part in parts:
        own: set[tuple[str, int]] = set()
        for row in part:
            key = (str(row["task_id"]), row["sample"])
            # A sampler repeats a task on another rank, never on the same one.
            if key in own or (key in seen and seen[key]["prompt"] != row["prompt"]):
                raise ValueError(
                    f"the task_id {row['task_id']!r} belongs to more than one task, so pass@k would mix them; give "
                    "every task an id of its own"
                )
            own.add(key)
            seen.setdefault(key, row)
    return sorted(seen.values(), key=place)


def gather(rows: Sequence[_Item]) -> list[Sequence[_Item]]:
    """The rows of every rank, rank by rank, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [rows]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, list(rows))
    return parts


def place(row: Row) -> tuple[list[str | int], int]:
    """Sorts by task and sample, numbers by their value: HumanEval/2 comes before HumanEval/10."""
    parts = re.split(r"([0-9]+)", str(row["task_id"]))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], row["sample"]


def _estimate(judged: Sequence[Sequence[bool]], k: int) -> PassAtK:
    if not judged:
        return PassAtK(math.nan, math.nan, math.nan, 0)
    n, c = [len(group) for group in judged], [sum(group) for group in judged]
    interval = bootstrap_interval(pass_at_k_per_problem(n, c, k), CONFIDENCE, RESAMPLES)
    return PassAtK(pass_at_k(n, c, k), interval.low, interval.high, len(judged))
