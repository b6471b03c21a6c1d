"""TensorBoard's file of a run, which a full disk may stop without stopping the run."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment  # type: ignore[attr-defined]
from lightning.pytorch.utilities import rank_zero_only

from .writing import is_out_of_room, warn_out_of_room


class EventsFile(TensorBoardLogger):
    """TensorBoardLogger in the run directory itself; after a full disk it warns once and writes no more.

    Its writer's thread ends with the first failure, and what it had in hand is lost: unlike ``metrics.csv`` the file
    is not completed when there is room again. No ``hparams.yaml`` is written, ``config.yaml`` holds the options.

    Args:
        run_dir: directory of the file.
        keep_until: the last step that the checkpoint of a resumed run knows of: TensorBoard hides what older files
            hold of later ones. ``None`` hides nothing.
    """

    def __init__(self, run_dir: str | Path, keep_until: int | None = None) -> None:
        options: dict[str, Any] = {} if keep_until is None else {"purge_step": keep_until + 1}
        super().__init__(str(run_dir), name="", version="", **options)
        self._stopped = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401 - a SummaryWriter, or what takes its calls and does nothing
        """TensorBoard's writer; once it has stopped, an object that takes every call and does nothing."""
        if not self._stopped:
            writer = []
            self._unless_full(lambda: writer.append(super(EventsFile, self).experiment))
            if writer:
                return writer[0]
        return DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As TensorBoardLogger."""
        self._unless_full(lambda: super(EventsFile, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """As TensorBoardLogger."""
        self._unless_full(lambda: super(EventsFile, self).log_hyperparams(params, metrics, step))

    @rank_zero_only
    def save(self) -> None:
        """Flush, and nothing else."""
        self._unless_full(lambda: self.experiment.flush())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush and close."""
        if self._experiment is not None:
            self._unless_full(lambda: self.experiment.flush())
            self._unless_full(lambda: self.experiment.close())

    def _unless_full(self, act: Callable[[], None]) -> None:
        if self._stopped:
            return
        try:
            act()
        except (OSError, ValueError) as error:
            cause = error.__cause__ or error  # Lightning hides in a ValueError whatever add_scalar raises
            if not is_out_of_room(cause):
                raise (cause if isinstance(cause, OSError) else error) from None
            self._stopped = True
            then = "it stays as it is, without what follows. metrics.csv has the same numbers."
            warn_out_of_room(f"TensorBoard's file in {self.log_dir}", cause, then)
