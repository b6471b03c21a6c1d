"""When checkpoints are written, by what they are refused, and what a signal or a full disk does."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from tamis.callbacks import FaultGuard, PolicyCallback, ReinforceUpdate, RunCheckpoints
from tamis.callbacks.interruption import Interruption
from tamis.callbacks.restored_options import keep_todays_options, options_made_with
from tamis.datamodules import MedMNIST
from tamis.modules import NoiseMaskPretraining, RepeatedFaults
from tamis.rollout import Rollout


def fit(
    folder: Path, npz: Path, checkpoints: RunCheckpoints, *callbacks: Callback, resume: Path | None = None
) -> Trainer:
    """Six iterations of a noise mask."""
    module = NoiseMaskPretraining("test_resnet", "test_resnet", grid=4, kernel_size=3)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        callbacks=[*callbacks, ReinforceUpdate(), checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, MedMNIST(str(npz), batch_size=4), ckpt_path=resume, weights_only=True)
    return trainer


def written(folder: Path) -> list[int]:
    return sorted(int(path.stem.partition("=")[2]) for path in (folder / "checkpoints").iterdir())


class At(PolicyCallback):
    """Does something in one iteration."""

    def __init__(self, iteration: int, act: Any) -> None:
        self.iteration, self.act = iteration, act

    def on_rollout(self, trainer: Trainer, module: Any, rollout: Rollout) -> Rollout:
        return (self.act(rollout) or rollout) if module.iteration + 1 == self.iteration else rollout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every_n_minutes": 0, "keep": None}, [1, 2, 3, 4, 5, 6]),
        ({"every_n_minutes": 0, "keep": 1}, [6]),
        ({"every_n_iterations": 4, "keep": None}, [4, 6]),
        ({}, [6]),  # at the end in any case
    ],
)
def test_when(options: dict[str, Any], expected: list[int], npz: Path, tmp_path: Path) -> None:
    fit(tmp_path, npz, RunCheckpoints(**options))
    assert written(tmp_path) == expected


def test_another_folder(npz: Path, tmp_path: Path) -> None:
    fit(tmp_path, npz, RunCheckpoints(folder=str(tmp_path / "there")))
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["iteration=00000006.ckpt"]


def test_ctrl_c_ends_the_run_with_a_checkpoint(npz: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    press = At(2, lambda rollout: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, npz, RunCheckpoints(), press)
    assert ended.value.code == 130
    assert written(tmp_path) == [2]
    assert "the run ends after this iteration" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_ends_at_once() -> None:
    wish = Interruption()
    wish.listen()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert wish.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        wish.forget()


def test_slurm_says_it_by_another_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    before = signal.getsignal(signal.SIGUSR1)
    wish = Interruption()
    wish.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    wish.forget()
    assert wish.signal == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(npz: Path, tmp_path: Path) -> None:
    """The disk takes no file as large as a checkpoint in iteration 3, and does again in iteration 5."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> At:
        return At(3 if size < 10**6 else 5, lambda rollout: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)))

    try:
        with pytest.warns(UserWarning, match=r"iteration=00000003.ckpt could not be written.*File too large"):
            fit(tmp_path, npz, RunCheckpoints(1, keep=None), limit(20_000), limit(10**9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written(tmp_path) == [1, 2, 5, 6]
    assert torch.load(tmp_path / "checkpoints" / "iteration=00000002.ckpt", weights_only=True)["iteration"] == 2


def test_repeated_faults_leave_the_state_of_before(npz: Path, tmp_path: Path) -> None:
    class Poison(PolicyCallback):
        def on_rollout(self, trainer: Trainer, module: Any, rollout: Rollout) -> Rollout:
            bad = module.iteration >= 3
            return rollout.replace(rewards=rollout.rewards * float("nan")) if bad else rollout  # type: ignore[operator]

    class Remember(PolicyCallback):
        def on_update_end(self, trainer: Trainer, module: Any, rollout: Rollout, stats: Mapping[str, Tensor]) -> None:
            if module.iteration == 3:
                self.good = {name: value.clone() for name, value in module.state_dict().items()}

    remember = Remember()
    with pytest.raises(RepeatedFaults):
        fit(tmp_path, npz, RunCheckpoints(1), Poison(), remember, FaultGuard(3))
    assert written(tmp_path) == [3, 5]  # none while steps are skipped, until they are too many
    newest = max((tmp_path / "checkpoints").iterdir())
    state = torch.load(newest, weights_only=True)["state_dict"]
    assert all(torch.equal(value, remember.good[name]) for name, value in state.items())


def test_the_last_one_comes_when_the_run_has_left_everything(npz: Path, tmp_path: Path) -> None:
    """From one behind the last epoch nothing is done any more, not even the export that failed."""

    class Failing(Callback):
        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise OSError("no room for the model")

    with pytest.raises(OSError, match="no room"):
        fit(tmp_path, npz, RunCheckpoints(1, keep=None), Failing())
    assert [path for path in written_names(tmp_path) if not path.startswith(".")][-1] == "iteration=00000005.ckpt"


def written_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def changed(path: Path, **facts: Any) -> Path:
    content = torch.load(path, weights_only=True)
    content["tamis"] |= facts
    torch.save(content, path)
    return path


def test_another_number_of_processes_is_refused_unless_asked_for(npz: Path, tmp_path: Path) -> None:
    fit(tmp_path, npz, RunCheckpoints(4, keep=None))
    path = changed(tmp_path / "checkpoints" / "iteration=00000004.ckpt", world_size=2)
    with pytest.raises(ValueError, match="processes: 2 in the checkpoint, 1 in this run.*other_world_size"):
        fit(tmp_path / "no", npz, RunCheckpoints(), resume=path)
    with pytest.warns(UserWarning, match="going on despite processes: 2"):
        fit(tmp_path / "yes", npz, RunCheckpoints(resume_despite=["other_world_size"]), resume=path)
    path = changed(path, world_size=1, versions={"torch": "1.0"})
    with pytest.warns(UserWarning, match=r"with others \(torch 1.0 -> "):
        fit(tmp_path / "old", npz, RunCheckpoints(), resume=path)


def test_a_checkpoint_of_lightning_alone_is_taken_with_a_warning(npz: Path, tmp_path: Path) -> None:
    trainer = fit(tmp_path, npz, RunCheckpoints(4))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    content = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    del content["tamis"]
    torch.save(content, tmp_path / "plain.ckpt")
    with pytest.warns(UserWarning, match="was written without RunCheckpoints"):
        fit(tmp_path / "again", npz, RunCheckpoints(), resume=tmp_path / "plain.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_iterations": 0}, "every_n_iterations must be at least 1 or null, got 0"),
        ({"keep": 0}, "keep must be at least 1 or null, got 0"),
        ({"every_n_minutes": -1.0}, "every_n_minutes must not be negative"),
        ({"resume_despite": ["weather"]}, "resume_despite knows other_data.*got weather"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunCheckpoints(**options)


# Options of optimisers and schedules


def made(rate: float, schedule: Any, **options: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, **options)
    return optimizer, schedule(optimizer)


def resumed(then: Any, now: Any, steps: int = 5) -> tuple[float, list[str]]:
    """The rate after some steps of one pair whose state goes into another, and what is told."""
    (old, old_schedule), (new, new_schedule) = then, now
    before = options_made_with([old], [old_schedule])
    for _ in range(steps):
        old.step()
        old_schedule.step()
    today = options_made_with([new], [new_schedule])
    new.load_state_dict(old.state_dict())
    new_schedule.load_state_dict(old_schedule.state_dict())
    told = keep_todays_options([new], [new_schedule], before, today)
    return new.param_groups[0]["lr"], [f"{name}: {then} -> {now}" for name, then, now in told]


def step_lr(size: int) -> Any:
    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, size)


def cosine(steps: int) -> Any:
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.01)


def linear(steps: int) -> Any:
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)


def test_a_rate_goes_on_from_where_its_schedule_was() -> None:
    # After 5 steps in twos: 0.1 divided by ten twice.
    rate, told = resumed(made(0.1, step_lr(2)), made(0.1, step_lr(2)))
    assert rate == pytest.approx(0.001)
    assert told == []


def test_another_rate_in_proportion() -> None:
    rate, told = resumed(made(0.1, step_lr(2)), made(0.5, step_lr(2)))
    assert rate == pytest.approx(0.005)
    assert told == ["lr: 0.1 -> 0.5"]


def test_another_schedule() -> None:
    rate, told = resumed(made(0.1, step_lr(2)), made(0.1, step_lr(4)))
    assert rate == pytest.approx(0.01)
    assert told == ["StepLR.step_size: 2 -> 4"]
    # Half-way down a cosine of 10 steps: 0.01 + (0.1 - 0.01) / 2.
    assert resumed(made(0.1, cosine(20)), made(0.1, cosine(10)))[0] == pytest.approx(0.055)
    assert resumed(made(0.1, cosine(10)), made(0.3, cosine(10)))[0] == pytest.approx(0.155)
    # A longer line: at step 5 of 20 instead of 10. No state holds its length.
    assert resumed(made(0.1, linear(10)), made(0.1, linear(20)))[0] == pytest.approx(0.075)
    assert resumed(made(0.1, linear(10)), made(0.2, linear(10)))[0] == pytest.approx(0.1)


def test_other_options_of_the_optimiser() -> None:
    now = made(0.1, step_lr(2), momentum=0.9, weight_decay=0.1)
    _, told = resumed(made(0.1, step_lr(2), momentum=0.5, weight_decay=0.1), now)
    assert told == ["momentum: 0.5 -> 0.9"]
    assert now[0].param_groups[0]["momentum"] == 0.9


def test_parts_of_a_sequence() -> None:
    def sequence(size: int) -> Any:
        def build(optimizer: torch.optim.Optimizer) -> Any:
            scheduler = torch.optim.lr_scheduler
            parts = [scheduler.ConstantLR(optimizer, 0.5, 2), scheduler.StepLR(optimizer, size)]
            return scheduler.SequentialLR(optimizer, parts, [2])

        return build

    _, told = resumed(made(0.1, sequence(2)), made(0.1, sequence(3)))
    assert told == ["StepLR.step_size: 2 -> 3"]
    as_before, changed_rate = (resumed(made(0.1, sequence(2)), made(rate, sequence(2)))[0] for rate in (0.1, 0.5))
    assert changed_rate == pytest.approx(5 * as_before)
