"""Sandbox servers that die while a policy trains, and runs that end by an error: nothing hangs, nothing is left."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.callbacks import PolicyCallback, ReinforceUpdate
from tamis.execution import Program, Sandbox
from tamis.modules import CodePolicy, PolicyModule, Reward, UnitTests, WeightedReward
from tamis.modules.rewards import Verifier
from tamis.rollout import Rollout

Tasks = list[dict[str, object]]


def _children(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(name), *_children(int(name))]
        except OSError:  # ended since the listing
            continue
    return found


def _servers() -> list[int]:
    """The sandbox's processes, none of which is older than the run."""
    found = []
    for pid in _children(os.getpid()):
        try:
            if b"guest" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def _soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


class Killer(PolicyCallback):
    """Kills the sandbox's servers after the first iteration, and the run after the second."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self.verdicts: list[list[str]] = []

    def on_rollout(self, trainer: Trainer, module: PolicyModule, rollout: Rollout) -> Rollout:
        self.verdicts.append([record["verdict"] for record in rollout.records])
        return rollout

    def on_update_end(
        self, trainer: Trainer, module: PolicyModule, rollout: Rollout, stats: Mapping[str, Tensor]
    ) -> None:
        if module.iteration == 2:
            raise KeyError("an error of somebody else's")
        self.killed = _servers()
        for pid in self.killed:
            with contextlib.suppress(ProcessLookupError):  # it died with the one before it
                os.kill(pid, signal.SIGKILL)


class Unclosable(Reward):
    """A reward whose server cannot be reached any more."""

    def forward(self, records: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def close(self) -> None:
        raise OSError("the line is dead")


def _trainer(*callbacks: PolicyCallback) -> Trainer:
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[*callbacks, ReinforceUpdate()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_killed_servers_are_replaced_and_an_error_leaves_none(tiny_model: str, tasks: Tasks) -> None:
    """In the midst of a fit with the unit tests as reward; what ended the run is what is raised."""
    before, killer = set(_servers()), Killer()
    module = CodePolicy(tiny_model, UnitTests(workers=1), num_samples=2, max_new_tokens=4, max_iterations=3)
    trainer = _trainer(killer)
    with pytest.raises(KeyError, match="somebody else's"):
        trainer.fit(module, DataLoader(tasks[:4], batch_size=2, collate_fn=list))  # type: ignore[arg-type]
    assert killer.killed
    assert len(killer.verdicts) == 2
    assert "internal" not in killer.verdicts[0] + killer.verdicts[1]
    assert set(_servers()) <= before


def test_a_sandbox_that_nobody_has_any_more_is_closed() -> None:
    before = set(_servers())
    sandbox = Sandbox(workers=2)
    assert sandbox.run(Program("def f(): return 1", "assert f() == 1")).passed
    assert set(_servers()) - before
    del sandbox
    gc.collect()
    assert _soon(lambda: set(_servers()) <= before)


def test_what_cannot_be_closed_is_told_and_hides_nothing(tiny_model: str, tasks: Tasks) -> None:
    """Each of several rewards is named; the servers beside them end; the run's own error comes first."""
    tests = UnitTests(workers=1)
    tests.verifier.start()
    broken = WeightedReward([Unclosable(), tests, Unclosable()], [1.0, 1.0, 1.0])
    with pytest.raises(
        RuntimeError, match="2 of 3 rewards could not be closed: Unclosable: OSError: the line.*; Unclos"
    ):
        broken.close()
    assert tests.verifier._sandbox is None
    module = CodePolicy(tiny_model, broken, num_samples=2, max_new_tokens=4, max_iterations=1)
    trainer = _trainer()
    loader: DataLoader[Any] = DataLoader(tasks[:2], batch_size=2, collate_fn=list)  # type: ignore[arg-type]
    with (
        pytest.raises(NotImplementedError),
        pytest.warns(UserWarning, match="after NotImplementedError: 2 of 3 rewards could not be closed"),
    ):
        trainer.fit(module, loader)


def test_a_verifier_closed_by_an_error_starts_again(tasks: Tasks) -> None:
    verifier = Verifier(workers=1)
    try:
        for _ in range(2):
            assert len(verifier.run(tasks[:1], ["    return None\n"])) == 1
            verifier.close()
    finally:
        verifier.close()
