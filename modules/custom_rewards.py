"""Rewards that are put together in a config: any Python function, and weighted sums."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from .reward_failures import finite_rewards, note_failure
from .reward_function import Columns, Function, RewardFunction, columns_of
from .rewards import Reward

_LONGEST_CAUSE = 300


class _Failed(NamedTuple):
    """Stands for a number that could not be had."""

    cause: str


class PythonReward(Reward):
    """What a Python function ``(prompts, completions, **columns) -> list[float]`` says, one number a completion.

    Columns are the other fields of the records (``task_id``, ``task``, …) and of the rows of the task file, as lists; a
    function may name the ones that it wants instead of taking ``**columns``. It runs in this process: it may read what
    a model wrote, and must not execute it.

    A completion for which the function gives ``None``, NaN, infinity or no number at all, or raises, gets
    ``failure_value``. A function that raises for a batch is called again for each completion alone, so that only the
    guilty ones fail.

    Args:
        function: ``package.module:function``, ``path/to/file.py:function``, or a callable in a script.
        failure_value: reward of a completion for which there is none.
    """

    def __init__(self, function: str | Function, failure_value: float = 0.0) -> None:
        super().__init__()
        if not math.isfinite(failure_value):
            raise ValueError(f"failure_value must be a finite number, got {failure_value}")
        self.failure_value = failure_value
        self.function = RewardFunction(function)

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a function that asks for columns which the tasks do not have."""
        if records:
            self.function.check(columns_of(records))

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """See `Reward`; notes the cause in the record of a completion without a reward.

        Raises:
            ValueError: if the function returns anything but one value a completion, or wants columns there are not.
        """
        numbers = self._numbers([record["prompt"] for record in records], list(completions), columns_of(records))
        failed = [(row, value.cause) for row, value in enumerate(numbers) if isinstance(value, _Failed)]
        for row, cause in failed:
            note_failure(records[row], f"{self.function.name}: {cause}")
        if failed:
            row, cause = failed[0]
            rank_zero_warn(
                f"{len(failed)} of {len(numbers)} completions got no reward from {self.function.name} and are given "
                f"failure_value={self.failure_value}; the first, of task {records[row].get('task_id')!r}: {cause}"
            )
        return torch.tensor([self.failure_value if isinstance(value, _Failed) else value for value in numbers])

    def _numbers(self, prompts: list[str], completions: list[str], columns: Columns) -> list[float | _Failed]:
        if not completions:
            return []
        self.function.check(columns)
        try:
            returned = self.function(prompts, completions, columns)
        except Exception as error:
            if len(completions) == 1:
                return [_Failed(_told(error))]
            alone = [
                ([prompts[row]], [completions[row]], {name: [values[row]] for name, values in columns.items()})
                for row in range(len(completions))
            ]
            return [number for arguments in alone for number in self._numbers(*arguments)]
        return [_number(value) for value in self._values(returned, len(completions))]

    def _values(self, returned: Any, count: int) -> list[Any]:  # noqa: ANN401 - a user's function returns anything
        """The values in what the function returned: a list, or a vector of an array library."""
        values = returned.tolist() if getattr(returned, "ndim", 0) == 1 and hasattr(returned, "tolist") else returned
        if not isinstance(values, list | tuple) or len(values) != count:
            got = f"{len(values)} values" if isinstance(values, list | tuple) else f"{_shown(returned)}"
            raise ValueError(
                f"the reward function {self.function.name} was given {count} prompts and completions and returned "
                f"{got} ({type(returned).__name__}); it must return a list of {count} numbers, one a completion, in "
                "their order (None for a completion that has no reward)"
            )
        return list(values)


class WeightedReward(Reward):
    """The sum of several rewards, each times its weight.

    A completion that one of them fails on gets that one's substitute (see there), and the others' own numbers.

    Args:
        rewards: what is added up.
        weights: one a reward; negative ones are penalties.
    """

    def __init__(self, rewards: list[Reward], weights: list[float]) -> None:
        super().__init__()
        if not rewards or len(rewards) != len(weights):
            raise ValueError(
                f"WeightedReward needs one weight a reward, got {len(rewards)} rewards and {len(weights)} weights"
            )
        if not all(math.isfinite(weight) for weight in weights):
            raise ValueError(f"weights must be finite numbers, got {weights}")
        self.rewards, self.weights = nn.ModuleList(rewards), list(weights)

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Every reward looks at the tasks."""
        for reward in self._parts():
            reward.check(records)

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """See `Reward`."""
        parts = [finite_rewards(reward, records, completions) for reward in self._parts()]
        place = next((part.device for part in parts if part.device.type != "cpu"), parts[0].device)
        weighted = [weight * part.to(place, torch.float32) for part, weight in zip(parts, self.weights, strict=True)]
        return torch.stack(weighted).sum(dim=0)

    def close(self) -> None:
        """Close every reward, also behind one that cannot be.

        Raises:
            RuntimeError: naming every reward that could not be closed, and why.
        """
        errors: list[tuple[str, Exception]] = []
        for reward in self._parts():
            try:
                reward.close()
            except Exception as error:
                errors.append((type(reward).__name__, error))
        if errors:
            told = "; ".join(f"{name}: {type(error).__name__}: {error}" for name, error in errors)
            raise RuntimeError(f"{len(errors)} of {len(self.rewards)} rewards could not be closed: {told}") from (
                errors[0][1]
            )

    def _parts(self) -> list[Reward]:
        return [part for part in self.rewards if isinstance(part, Reward)]


def _number(value: Any) -> float | _Failed:  # noqa: ANN401
    if value is None or isinstance(value, str | bytes):
        return _Failed(f"it returned {_shown(value)}" + ("" if value is None else ", which is no number"))
    try:
        number = float(value)
    except Exception:
        return _Failed(f"it returned {_shown(value)}, which is no number")
    # Rewards travel in single precision.
    return number if abs(number) <= torch.finfo(torch.float32).max else _Failed(f"it returned {number}")


def _told(error: Exception) -> str:
    """An exception and where it was raised, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:_LONGEST_CAUSE]}{place}"


def _shown(value: Any) -> str:  # noqa: ANN401
    try:
        return " ".join(repr(value).split())[:_LONGEST_CAUSE]
    except Exception:
        return f"a {type(value).__name__}"
