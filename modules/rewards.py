"""Where a code policy's rewards come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..execution import Program, Sandbox, Status, Verdict, humaneval, mbpp
from ..generation.sampling import evaluation_mode
from .language_model import PromptFormat
from .reward_model import RewardModel


class Reward(nn.Module, ABC):
    """Scores completions; a sub-module of the policy, so that it moves to the policy's device."""

    @abstractmethod
    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """``[B]`` one reward a completion.

        Args:
            records: the task of each completion, with its ``prompt``.
            completions: the texts.
        """

    def close(self) -> None:
        """Give back what is held outside this process."""


class UnitTests(Reward):
    """Run the task's tests: ``passed`` where they pass, ``failed`` otherwise.

    Args:
        passed: reward of a completion whose tests pass.
        failed: reward of any other.
        workers: programs that run at the same time.
    """

    def __init__(self, passed: float = 1.0, failed: float = 0.0, workers: int = 2) -> None:
        super().__init__()
        self.passed, self.failed = passed, failed
        self.verifier = Verifier(workers)

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """See `Reward`."""
        verdicts = self.verifier.run(records, completions)
        return torch.tensor([self.passed if verdict.passed else self.failed for verdict in verdicts])

    def close(self) -> None:
        """Stop the workers."""
        self.verifier.close()


class LearnedReward(Reward):
    """The score of a reward model, in standard deviations from its training responses' mean.

    Args:
        model_name_or_path: folder that a `RewardModel` run wrote.
        prompt_format: the one that the reward model was trained with.
        normalise: use the constants saved with the model; otherwise the raw score.
    """

    def __init__(self, model_name_or_path: str, prompt_format: PromptFormat = "plain", normalise: bool = True) -> None:
        super().__init__()
        self.normalise = normalise
        self.reward_model = RewardModel(model_name_or_path, prompt_format)
        self.reward_model.requires_grad_(False)

    @torch.no_grad()
    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """See `Reward`; the B completions are scored in one forward."""
        with evaluation_mode(self.reward_model):
            scores = self.reward_model.score([record["prompt"] for record in records], completions)
        return self.reward_model.model.normalise(scores) if self.normalise else scores


class Verifier:
    """Runs completions against their tasks' tests; starts its sandbox when it is first needed.

    Args:
        workers: programs that run at the same time.
    """

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers
        self._sandbox: Sandbox | None = None

    def run(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[Verdict]:
        """One verdict a completion, in order."""
        if self._sandbox is None:
            self._sandbox = Sandbox(self.workers)
        programs = [program(record, completion) for record, completion in zip(records, completions, strict=True)]
        verdicts = self._sandbox.run_many(programs)
        lost = sum(verdict.status is Status.INTERNAL for verdict in verdicts)
        if lost:
            rank_zero_warn(f"{lost} of {len(verdicts)} programs got no verdict through a fault of the sandbox")
        return verdicts

    def close(self) -> None:
        """Stop the workers; the next `run` starts new ones."""
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None


def program(record: Mapping[str, Any], completion: str) -> Program:
    """The program that judges a completion: HumanEval rows continue their prompt, MBPP rows are whole programs."""
    task = record["task"]
    return humaneval(task, completion) if "entry_point" in task else mbpp(task, completion)
