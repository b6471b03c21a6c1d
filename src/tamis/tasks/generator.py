"""Draws tasks, computes what they should return, and deals them into splits that share no composition."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .families import FAMILIES, WEIGHTS
from .grammar import Composition, tidy
from .inputs import draw_inputs

ENTRY_POINT = "f"  # always the same: a name to copy would only be one more thing for a small model to learn
ASSERTS = 5
CANDIDATE_INPUTS = 12
MAX_DRAWS_PER_TASK = 300
VALIDATION_PERCENT, TEST_PERCENT = 5, 10  # of the compositions


@dataclass(frozen=True)
class Task:
    """One programming task in the layout of HumanEval, and where it comes from.

    Attributes:
        task_id: Such as ``tamis/train/17``.
        prompt: Signature and docstring.
        entry_point: Name of the function.
        canonical_solution: The reference body.
        test: Code that defines ``check(candidate)``.
        family: Name of the family.
        composition: The reference composition; no two splits share one.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str
    family: str
    composition: str

    def row(self) -> dict[str, str]:
        """The task as one JSON row."""
        return asdict(self)


@dataclass(frozen=True)
class TaskSplits:
    """Tasks to train on, to choose settings with, and to report on."""

    train: tuple[Task, ...]
    validation: tuple[Task, ...]
    test: tuple[Task, ...]


@dataclass(frozen=True)
class Reference:
    """A reference solution: its body, and the function itself."""

    body: str
    function: Callable[..., Any]


class TaskGenerator:
    """Generates tasks. Equal seeds give equal tasks on every machine.

    Which split a composition belongs to does not depend on the seed, and a split does not depend on the sizes of the
    others: asking for more training tasks changes no test task.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def generate(self, train: int, validation: int, test: int) -> TaskSplits:
        """Generates tasks with distinct prompts.

        Args:
            train: Number of tasks to train on.
            validation: Number of tasks to choose settings with.
            test: Number of tasks to report on.

        Raises:
            ValueError: A number is below zero, or more than the grammar has tasks for.
        """
        return TaskSplits(self._fill("train", train), self._fill("validation", validation), self._fill("test", test))

    def _fill(self, split: str, count: int) -> tuple[Task, ...]:
        if count < 0:
            raise ValueError(f"{split} is {count}; it must be 0 or more.")
        rng = random.Random(f"tamis/{self._seed}/{split}")  # a text seed is hashed the same way everywhere
        tasks: list[Task] = []
        prompts: set[str] = set()
        references: dict[str, Reference] = {}
        draws = 0
        while len(tasks) < count:
            draws += 1
            if draws > MAX_DRAWS_PER_TASK * count:
                raise ValueError(
                    f"Found only {len(tasks)} of {count} distinct {split} tasks in {draws} draws; ask for fewer."
                )
            composition = draw_composition(rng)
            if split_of(composition.name) != split:
                continue
            prompt = f'def {ENTRY_POINT}({composition.parameters}):\n    """{composition.wording(rng)}"""\n'
            if prompt in prompts:
                continue
            if composition.name not in references:
                references[composition.name] = _compile(composition)
            reference = references[composition.name]
            test = _write_test(composition, reference.function, rng)
            if test is not None:
                prompts.add(prompt)
                tasks.append(_task(f"tamis/{split}/{len(tasks)}", composition, prompt, reference.body, test))
        return tuple(tasks)


def draw_composition(rng: random.Random) -> Composition:
    """Draws a family by its share, then one of its compositions."""
    return rng.choices(FAMILIES, WEIGHTS)[0].draw(rng)


def split_of(composition: str) -> str:
    """The split that a composition belongs to: a matter of its hash alone, whatever the wording or the seed."""
    percent = int.from_bytes(hashlib.sha256(composition.encode()).digest()[:8], "big") % 100
    if percent < TEST_PERCENT:
        return "test"
    return "validation" if percent < TEST_PERCENT + VALIDATION_PERCENT else "train"


def _task(task_id: str, composition: Composition, prompt: str, body: str, test: str) -> Task:
    return Task(task_id, prompt, ENTRY_POINT, body, test, composition.family, composition.name)


def _compile(composition: Composition) -> Reference:
    """The reference, ready to run in this process: the code is the grammar's own."""
    body = tidy(composition.code)
    namespace: dict[str, Any] = {}
    exec(f"def {ENTRY_POINT}({composition.parameters}):\n{body}", namespace)
    return Reference(body, namespace[ENTRY_POINT])


def _write_test(composition: Composition, reference: Callable[..., Any], rng: random.Random) -> str | None:
    """The checks, from really running the reference; None when it gave the same result for all inputs."""
    results: dict[str, str] = {}
    for arguments in draw_inputs(rng, composition.family, composition.constants, CANDIDATE_INPUTS):
        results[", ".join(map(repr, arguments))] = repr(reference(*arguments))
    chosen = _informative(results)
    if len(chosen) < ASSERTS or len({results[call] for call in chosen}) < 2:
        return None
    lines = [f"    assert candidate({call}) == {results[call]}\n" for call in chosen]
    return "def check(candidate):\n" + "".join(lines)


def _informative(results: dict[str, str]) -> list[str]:
    """Inputs for the asserts: those with a result not seen before come first."""
    seen: set[str] = set()
    new: list[str] = []
    repeated: list[str] = []
    for call, result in results.items():
        (repeated if result in seen else new).append(call)
        seen.add(result)
    return [*new, *repeated][:ASSERTS]
