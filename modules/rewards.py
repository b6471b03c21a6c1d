"""Where a code policy's rewards come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from .. import execution
from ..execution import Limits, Program, Sandbox, Status, Verdict
from ..execution.levels import Isolation
from ..generation.modes import evaluation_mode
from .language_model import Precision, PromptFormat
from .reference import keep_aside, resident
from .reward_failures import mean_of_the_others, note_failure
from .reward_model import RewardModel, saved_settings


class Reward(nn.Module, ABC):
    """Scores completions; a sub-module of the policy, so that it moves to the policy's device."""

    @abstractmethod
    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """``[B]`` one reward a completion.

        Args:
            records: the task of each completion, with its ``prompt``.
            completions: the texts.
        """

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Look at the tasks before the first is answered, and refuse what could not be rewarded.

        Args:
            records: of all tasks that there are to train on.
        """

    def close(self) -> None:
        """Give back what is held outside this process."""


class UnitTests(Reward):
    """Run the task's tests: ``passed`` where they pass, ``failed`` otherwise.

    A completion that got no verdict through a fault of the sandbox gets the mean of its prompt's other completions, or
    else of the whole batch, so that nothing is learned from it.

    Args:
        passed: reward of a completion whose tests pass.
        failed: reward of any other.
        workers: programs that run at the same time.
        isolation: level of the sandbox; ``auto`` takes the best that works here.
        limits: what one program may use; ``None`` takes the sandbox's own.
    """

    def __init__(
        self,
        passed: float = 1.0,
        failed: float = 0.0,
        workers: int = 2,
        isolation: Isolation = "auto",
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.passed, self.failed = passed, failed
        self.verifier = Verifier(workers, isolation, limits)

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """See `Reward`; also notes each ``verdict`` in the record of its completion, if that is what the record is.

        Raises:
            RuntimeError: if no completion at all got a verdict.
        """
        verdicts = self.verifier.run(records, completions)
        for record, verdict in zip(records, verdicts, strict=True):
            if isinstance(record, dict) and "completion" in record:  # not in the task itself, which others share
                record["verdict"] = str(verdict.status)  # for people: a rollout's records carry it into tables
            if verdict.status is Status.INTERNAL:
                note_failure(record, f"the sandbox gave no verdict: {verdict.detail}")
        return self.rewards([record["prompt"] for record in records], verdicts)

    def rewards(self, prompts: Sequence[str], verdicts: Sequence[Verdict]) -> Tensor:
        """``[B]`` the reward of each verdict.

        Raises:
            RuntimeError: if there is no verdict among them.
        """
        rewards = [
            None if verdict.status is Status.INTERNAL else self.passed if verdict.passed else self.failed
            for verdict in verdicts
        ]
        if all(reward is None for reward in rewards):
            raise RuntimeError(
                f"the sandbox gave no verdict on any of {len(verdicts)} programs; `python -m tamis.execution` says "
                f"what works on this machine. The first one's reason: {verdicts[0].detail}"
            )
        return torch.tensor(mean_of_the_others(prompts, rewards))

    def close(self) -> None:
        """Stop the workers."""
        self.verifier.close()


class LearnedReward(Reward):
    """The score of a reward model, in standard deviations from its reference responses' mean.

    It reads texts, not the policy's tokens, so that its vocabulary may be another one.

    Args:
        model_name_or_path: folder that a `RewardModel` run wrote.
        prompt_format: ``None`` takes the one that the reward model was trained with; another is an error.
        normalise: use the constants saved with the model; otherwise the raw score.
        batch_size: completions scored at a time, those of similar length together.
        dtype: of the transformer's weights; the head's are in fp32.
        offload: the reward model waits on the CPU and is on the policy's device only while it scores. It saves its
            memory during sampling and update, and costs one transfer a call.
    """

    reward_model: RewardModel
    place: Tensor

    def __init__(
        self,
        model_name_or_path: str,
        prompt_format: PromptFormat | None = None,
        normalise: bool = True,
        batch_size: int = 16,
        dtype: Precision = "float32",
        offload: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.normalise, self.batch_size = normalise, batch_size
        model = _load_reward_model(model_name_or_path, prompt_format, dtype)
        if offload:
            keep_aside(self, "reward_model", model)
        else:
            self.reward_model = model
        # Goes where the trainer puts this module, and so says where to score.
        self.register_buffer("place", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        """See `Reward`."""
        texts = [(record["prompt"], completion) for record, completion in zip(records, completions, strict=True)]
        order = sorted(range(len(texts)), key=lambda row: sum(map(len, texts[row])))
        parts = []
        with resident(self.reward_model, self.place.device), evaluation_mode(self.reward_model):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                prompts, responses = zip(*(texts[row] for row in rows), strict=True)
                parts.append(self.reward_model.score(prompts, responses))
        scores = torch.empty(len(texts), device=self.place.device)
        if parts:  # put back at once: each list of indices is a copy to the device
            scores[order] = torch.cat(parts).to(scores)
        return self.reward_model.model.normalise(scores) if self.normalise else scores


def _load_reward_model(path: str, prompt_format: PromptFormat | None, dtype: Precision) -> RewardModel:
    """A trained reward model that reads texts as it was trained to.

    Raises:
        ValueError: for a language model without a trained head, or another prompt format than in training.
    """
    trained = saved_settings(path)
    model = RewardModel(path, trained.prompt_format, trained.max_length, dtype=dtype).requires_grad_(False)
    if not model.model.has_trained_head:
        raise ValueError(
            f"{path} is a language model without a trained reward head, so that every completion would get the same "
            "reward. Give the folder `model` that a RewardModel run wrote (configs/quickstart/reward_model.yaml)."
        )
    if prompt_format not in (None, trained.prompt_format):
        raise ValueError(
            f"prompt_format={prompt_format}, and the reward model in {path} was trained with "
            f"{trained.prompt_format}; leave it out, or train a reward model with prompt_format: {prompt_format}"
        )
    return model


class Judgement(NamedTuple):
    """What became of a completion.

    Args:
        verdict: of the program that was made of it.
        extracted: False where no code was found in the text.
    """

    verdict: Verdict
    extracted: bool


class Verifier:
    """Runs completions against their tasks' tests; starts its sandbox when it is first needed.

    Args:
        workers: programs that run at the same time.
        isolation: level of the sandbox; ``auto`` takes the best that works here.
        limits: what one program may use; ``None`` takes the sandbox's own.
    """

    def __init__(self, workers: int = 2, isolation: Isolation = "auto", limits: Limits | None = None) -> None:
        self.workers = workers
        self.isolation: Isolation = isolation
        self.limits = limits or Limits()
        self.level: str | None = None
        self._sandbox: Sandbox | None = None

    def start(self) -> Sandbox:
        """The sandbox, started unless it runs; ``level`` is then the isolation that is really on.

        Raises:
            SandboxUnavailableError: if the isolation asked for is not to be had.
        """
        if self._sandbox is None:
            self._sandbox = Sandbox(self.workers, self.isolation, self.limits)
            self.level = self._sandbox.level
        return self._sandbox

    def run(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[Verdict]:
        """One verdict a completion, in order."""
        return [judgement.verdict for judgement in self.judge(records, completions)]

    def judge(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[Judgement]:
        """One verdict a completion, in order, and whether there was code in it."""
        sandbox = self.start()
        programs = [program(record, completion) for record, completion in zip(records, completions, strict=True)]
        verdicts = sandbox.run_many(programs)
        lost = [verdict.detail for verdict in verdicts if verdict.status is Status.INTERNAL]
        if lost:
            rank_zero_warn(
                f"{len(lost)} of {len(verdicts)} programs got no verdict through a fault of the sandbox, which is not "
                f"counted against the model; the first: {lost[0]}"
            )
        return [Judgement(verdict, code.extracted) for verdict, code in zip(verdicts, programs, strict=True)]

    def close(self) -> None:
        """Stop the workers; the next `run` starts new ones."""
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None


def program(record: Mapping[str, Any], completion: str) -> Program:
    """The program that judges a completion, as the record's task and the way it was put ask for."""
    return execution.program(record["task"], completion, record.get("prompt_style", "auto"))
