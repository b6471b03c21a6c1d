"""The evaluation hooks of a policy whose actions are judged one by one: collect on every rank, measure once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from .code_evaluation import EvaluationSettings, Measurement, each_once, gather, measure
from .policy import PolicyModule

Record = dict[str, Any]

# What counts; the rest of a sample is for callbacks and need not travel between ranks here.
_COUNTED = ("task_id", "prompt", "sample", "status", "passed", "extracted", "truncated")


class CloseOnException(Callback):
    """Gives back what a policy holds outside this process when its run ends by an error; there is no teardown then."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close, and let no trouble with that hide the error itself."""
        if isinstance(pl_module, EvaluatedPolicy):
            try:
                pl_module.close()
            except Exception as error:
                rank_zero_warn(f"after {type(exception).__name__}: {error}")


class EvaluatedPolicy(PolicyModule):
    """Logs ``val/`` or ``test/`` pass@k with its interval, and the rates of all outcomes, at the end of the epoch.

    A number of the whole set is no mean over batches or ranks: samplers repeat tasks, and tasks may lose samples.

    Args:
        evaluation: how tasks are sampled.
        max_iterations: as of `PolicyModule`.
    """

    def __init__(self, evaluation: EvaluationSettings, max_iterations: int | None = None) -> None:
        super().__init__(max_iterations)
        self.evaluation = evaluation
        self._judged: list[Record] = []

    @abstractmethod
    def judged_samples(self, batch: Sequence[Record], n: int, temperature: float, top_p: float = 1.0) -> list[Record]:
        """N samples of every task in the batch, task by task, with their verdicts."""

    def close(self) -> None:
        """Give back what is held outside this process."""

    def configure_callbacks(self) -> list[Callback]:
        """Lightning tears a module down after a good end only."""
        return [CloseOnException()]

    def teardown(self, stage: str) -> None:
        """Stop whatever runs programs."""
        self.close()

    def on_validation_epoch_start(self) -> None:
        """Start with no samples."""
        self._judged = []

    def validation_step(self, batch: Sequence[Record], batch_idx: int) -> dict[str, list[Record]]:
        """Samples of held-out tasks, with their verdicts."""
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Pass@k on held-out tasks."""
        self._log("val")

    def on_test_epoch_start(self) -> None:
        """Start with no samples."""
        self._judged = []

    def test_step(self, batch: Sequence[Record], batch_idx: int) -> dict[str, list[Record]]:
        """Samples of the test tasks; returns every one with its verdict (and reward) for callbacks."""
        return self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        """Pass@k on the test tasks."""
        self._log("test")

    def _evaluate(self, batch: Sequence[Record]) -> dict[str, list[Record]]:
        settings = self.evaluation
        rows = self.judged_samples(batch, settings.samples, settings.temperature, settings.top_p)
        self._judged += [{key: row[key] for key in _COUNTED} for row in rows]
        return {"samples": rows}

    def _log(self, split: str) -> None:
        """Every rank counts the samples of all, so that all log the same."""
        rows = each_once(gather(self._judged))
        if not rows:
            return
        measurement = measure(rows, self.evaluation.pass_at)
        self._warn_of_faults(measurement)
        headlines = {f"pass@{k}" for k in self.evaluation.pass_at}
        for name, value in measurement.metrics().items():
            # The maximum of equal numbers is that number; a mean over ranks may round.
            self.log(f"{split}/{name}", value, prog_bar=name in headlines, reduce_fx="max", sync_dist=True)

    def _warn_of_faults(self, measurement: Measurement) -> None:
        lost = measurement.outcomes["internal"]
        if lost:
            rank_zero_warn(
                f"{lost} of {measurement.samples} samples got no verdict through a fault of the sandbox and are left "
                f"out of pass@k; {measurement.problems_without_verdict} of {measurement.problems} problems have no "
                "other sample"
            )
