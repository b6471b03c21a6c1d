"""Checkpoints of a whole run: from each, the run goes on as if it had never been stopped."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ..datamodules.loading import TrainingLoader
from ..modules.policy import PolicyModule
from ..modules.sound_steps import RepeatedFaults
from ..processes import max_over_ranks, several_processes
from ..run_dir.resume import RUN_STATE
from .generators import generator_states, restore_generators
from .interruption import Interruption
from .restored_options import Made, keep_todays_options, options_made_with

#: What may differ between a checkpoint and the run that goes on from it, if it is asked for by name.
Difference = Literal["other_data", "other_world_size", "other_batch_size"]


class RunCheckpoints(Checkpoint):
    """Write checkpoints from which a run goes on exactly, and end it with one when a signal asks it to end.

    Beside what Lightning keeps (networks, optimisers, schedules, callbacks, progress) they hold the state of all random
    generators, the place in the epoch, a digest of the data, the number of processes, versions and options. They hold
    tensors and primitives only. A file is written beside its place and renamed, so that a kill or a full disk leaves
    the last one as it was.

    A checkpoint comes to its place when its iteration has been logged: no line of the logs is missing behind it. At
    Ctrl-C or SIGTERM the iteration is finished, a checkpoint written, and the process ends with status 130 or 143.

    Args:
        every_n_iterations: write after so many iterations (training batches where no policy learns).
        every_n_minutes: write after the first iteration that ends so many minutes after the last checkpoint.
        keep: how many to keep, the newest ones; ``null`` keeps all.
        resume_despite: go on although the checkpoint's run had ``other_data``, ``other_world_size`` (number of
            processes) or ``other_batch_size`` (of all processes); without it that is an error.
        folder: where they lie; by default ``checkpoints`` in the run directory.
    """

    def __init__(
        self,
        every_n_iterations: int | None = None,
        every_n_minutes: float | None = 15.0,
        keep: int | None = 2,
        resume_despite: Sequence[Difference] = (),
        folder: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("every_n_iterations", every_n_iterations, 1), ("keep", keep, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least} or null, got {value}")
        if every_n_minutes is not None and every_n_minutes < 0:
            raise ValueError(f"every_n_minutes must not be negative, got {every_n_minutes}")
        unknown = sorted(set(resume_despite) - set(get_args(Difference)))
        if unknown:
            raise ValueError(f"resume_despite knows {', '.join(get_args(Difference))}, got {', '.join(unknown)}")
        self.every_n_iterations, self.every_n_minutes, self.keep = every_n_iterations, every_n_minutes, keep
        self.resume_despite, self.folder = tuple(resume_despite), folder
        #: The run's resolved configuration, which the command line fills in.
        self.config: str | None = None
        self._interruption = Interruption()
        self._made: Made | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._written_at = time.monotonic()
        self._pending, self._ending = False, 0
        self._written: tuple[Path, Path] | None = None
        self._behind_all = False
        self._facts: dict[str, Any] = {}

    # What a checkpoint holds

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not keep; every rank is asked."""
        loader = trainer.train_dataloader
        checkpoint[RUN_STATE] = {
            **self._facts,
            "iteration": iteration_of(trainer, pl_module),
            "position": loader.state_dict() if isinstance(loader, TrainingLoader) else {},
            "generators": generator_states(),
            "made": self._made,
            "config": self.config,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with something else than what the checkpoint's run had."""
        if trainer.state.fn != "fit":
            return
        state = checkpoint.get(RUN_STATE)
        if state is None:
            rank_zero_warn(
                f"{trainer.ckpt_path} was written without RunCheckpoints: it lacks the random generators' states and a "
                "digest of the data, so that this run is not the exact continuation"
            )
            return
        self._loaded = state
        now = _facts(trainer)
        self._compare("other_world_size", "processes", state["world_size"], now["world_size"])
        for split in set(state["data"]) & set(now["data"]):
            self._compare("other_data", f"the {split} data (digest)", state["data"][split], now["data"][split])
        batch_size = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        if batch_size is not None and state["position"]:
            then = state["position"]["batch_size"]
            self._compare("other_batch_size", "items a batch of all processes", then, batch_size * trainer.world_size)
        changed = [name for name, old in state["versions"].items() if now["versions"].get(name) != old]
        if changed:
            said = ", ".join(f"{name} {state['versions'][name]} -> {now['versions'].get(name)}" for name in changed)
            rank_zero_warn(f"{trainer.ckpt_path} was written with others ({said}); numbers may differ a little")

    def _compare(self, difference: Difference, what: str, then: object, now: object) -> None:
        if then == now:
            return
        told = f"{what}: {then} in the checkpoint, {now} in this run"
        if difference not in self.resume_despite:
            raise ValueError(
                f"the checkpoint does not fit this run, {told}. Give the run what it had, or accept that it does not "
                f"go on exactly: `--checkpoint.resume_despite '[{difference}]'`"
            )
        rank_zero_warn(f"going on despite {told}")

    # When

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the options of optimisers and schedules before a checkpoint's state comes into them."""
        self._made = options_made_with(trainer.optimizers, _schedulers(trainer))
        self._facts = _facts(trainer)
        self._pending, self._ending, self._behind_all = False, 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from a checkpoint's generators and options; from here on, signals wait for an iteration's end."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self._take_place(trainer, loaded["position"])
            if self._made is not None and loaded["made"] is not None:
                changes = keep_todays_options(trainer.optimizers, _schedulers(trainer), loaded["made"], self._made)
                for name, old, new in changes:
                    rank_zero_info(f"{name}: {old} in the checkpoint, {new} from now on")
            restore_generators(loaded["generators"])
            rank_zero_info(f"going on after iteration {loaded['iteration']} of {trainer.ckpt_path}")
        self._written_at = time.monotonic()
        self._interruption.listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Write a checkpoint here, unless validation or the epoch's end are about to come: then after these."""
        iteration = iteration_of(trainer, pl_module)
        self._pending |= self.every_n_iterations is not None and iteration % self.every_n_iterations == 0
        late, self._ending = self._agree(trainer)
        self._pending |= late or bool(self._ending) or trainer.should_stop
        if not _epoch_is_over(trainer) and not _validation_follows(trainer):
            self._settle(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a validation in the middle of an epoch."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not _epoch_is_over(trainer):
            self._pending |= trainer.should_stop
            self._settle(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a whole epoch with its validation; one that a limit has cut short has its checkpoint already."""
        if _epoch_is_over(trainer):
            last = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
            self._pending |= trainer.should_stop or last
            # From a checkpoint behind the last epoch Lightning starts nothing any more, not even what is done at the
            # end. It comes to its place when that is done.
            self._behind_all = last
            self._settle(trainer, pl_module)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """By now the iteration before this has been logged, and a checkpoint of it may come to its place."""
        path = self._publish(trainer)
        if path is not None and self._ending:
            name = signal.Signals(self._ending).name
            rank_zero_info(f"Ended by {name} with {path}. The same command with `--resume auto` goes on from it.")
            raise SystemExit(128 + self._ending)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is done at the end can be done again from a checkpoint that is not behind all epochs."""
        if not self._behind_all:
            self._publish(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is whole, with whatever it leaves behind: so is its last checkpoint."""
        self._publish(trainer)
        loaded, self._loaded = self._loaded, None
        if loaded is not None:  # Lightning saw that no epoch is left, and has started nothing
            rank_zero_info(f"the training of {trainer.ckpt_path} was finished; nothing is left to do")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Skipped steps leave nothing behind: the state is the one from before the first of them."""
        if isinstance(exception, RepeatedFaults):
            self._write(trainer, pl_module)
            path = self._publish(trainer)
            if path is not None:
                rank_zero_info(f"The state of before is in {path}")
        self._interruption.forget()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Signals are others' again."""
        self._interruption.forget()

    # How

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        """Write a checkpoint of this moment, between two iterations, beside its place; every rank must call it."""
        folder = self._folder(trainer)
        path = folder / f"iteration={iteration_of(trainer, module):08d}.ckpt"
        part = path.with_name(f".{path.name}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(part, weights_only=False)
            self._written = (part, path)
        except OSError as error:
            _remove(part)
            rank_zero_warn(
                f"the checkpoint {path} could not be written: {error}. Those before it are as they were, and training "
                "goes on; make room, or name another place by `--checkpoint.folder`"
            )
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other ranks wait
        self._written_at = time.monotonic()

    def _publish(self, trainer: Trainer) -> Path | None:
        """Put what was written in its place, and remove what is too old."""
        written, self._written = self._written, None
        if written is None:
            return None
        part, path = written
        if trainer.is_global_zero:
            _put_in_place(part, path)
            found = sorted(path.parent.glob("iteration=*.ckpt"))
            for old in found[: -self.keep] if self.keep is not None else []:
                _remove(old)
        return path

    def _settle(self, trainer: Trainer, module: LightningModule) -> None:
        """Write what is due."""
        # In a row of skipped steps nothing is written that would look newer than the last good state.
        skipping = getattr(module, "faulty_in_a_row", 0) > 0 and not self._ending
        if self._pending and not skipping and not trainer.fit_loop._should_accumulate():
            self._pending = False
            self._write(trainer, module)

    def _agree(self, trainer: Trainer) -> tuple[bool, int]:
        """Whether it is time for a checkpoint, and the signal that has come: the same on all ranks."""
        waited = time.monotonic() - self._written_at
        late = self.every_n_minutes is not None and waited >= 60 * self.every_n_minutes
        if not several_processes():
            return late, self._interruption.signal
        found = torch.tensor([float(late), float(self._interruption.signal)], device=trainer.strategy.root_device)
        told = max_over_ranks(found).tolist()
        return bool(told[0]), int(told[1])

    def _take_place(self, trainer: Trainer, position: Mapping[str, int]) -> None:
        """See that the epoch is gone on with at the right item, in batches of another size, too."""
        loader = trainer.train_dataloader
        if not isinstance(loader, TrainingLoader) or not position:
            return
        # Lightning does that, too, but not where a schedule has asked for the number of steps before.
        loader.load_state_dict(dict(position))
        size = loader.position().batch_size
        if position["batch_size"] != size:
            current = trainer.fit_loop.epoch_loop.batch_progress.current
            batches = position["batches"] * position["batch_size"] // size
            for count in vars(current):
                setattr(current, count, batches)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "checkpoints"


def iteration_of(trainer: Trainer, module: LightningModule) -> int:
    """Rounds of the loop, or training batches where no policy learns."""
    if isinstance(module, PolicyModule):
        return module.iteration
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.ready)


def _facts(trainer: Trainer) -> dict[str, Any]:
    fingerprint = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
    return {
        "world_size": trainer.world_size,
        "data": {} if fingerprint is None else fingerprint(),
        # Sums are rounded in another order by another number of threads.
        "versions": {name: version(name) for name in ("torch", "lightning", "transformers", "timm", "tamis")}
        | {"threads": str(torch.get_num_threads())},
    }


def _schedulers(trainer: Trainer) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def _epoch_is_over(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def _validation_follows(trainer: Trainer) -> bool:
    loop = trainer.fit_loop
    if not sum(trainer.num_val_batches):
        return False
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))  # type: ignore[arg-type]


def _remove(path: Path) -> None:
    """A file, or a folder as strategies for sharded models write it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _put_in_place(part: Path, path: Path) -> None:
    """Rename what is surely on the disk."""
    if path.is_dir():
        _remove(path)  # a folder cannot be put in the place of another
    if part.is_file():
        with part.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(path)
    place = os.open(path.parent, os.O_RDONLY)
    os.fsync(place)
    os.close(place)
