"""The result file of a test run and the table of its completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..modules import CodePolicy
from ..modules.code_evaluation import CONFIDENCE, Measurement, each_once, gather, measure, outcome
from ..run_dir.writing import name_the_file, write_whole
from .dataset_facts import dataset_facts
from .results import as_json, described, measured, table_row

RESULTS, COMPLETIONS = "results.json", "completions.jsonl"
Row = Mapping[str, Any]


class CompletionTable(Callback):
    """Under ``tamis test``: write ``results.json`` and ``completions.jsonl``, and print a summary.

    The result file holds pass@k with its interval and everything that could move it: data set, prompt, sampling, model,
    sandbox, versions. Neither file holds a time: the same run on the same CPU writes the same bytes.

    Args:
        folder: where the files go; ``None`` is the run directory. Existing files are an error.
        failures: how many failing completions the printed summary names.
    """

    def __init__(self, folder: str | None = None, failures: int = 5) -> None:
        if failures < 0:
            raise ValueError(f"failures must be 0 (name none) or more, got {failures}")
        self.folder, self.failures = folder, failures
        self._rows: list[Row] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without completions, and to overwrite, before anything is sampled."""
        if not isinstance(pl_module, CodePolicy):
            raise ValueError(
                f"CompletionTable needs a CodePolicy, which samples programs; got {type(pl_module).__name__}"
            )
        for name in (RESULTS, COMPLETIONS):
            if stage == "test" and (self._folder(trainer) / name).exists():
                raise FileExistsError(f"{self._folder(trainer) / name} exists; choose another folder or remove it")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with no samples."""
        self._rows = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the judged samples."""
        self._rows += outputs["samples"]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the ranks' samples together; the first rank writes and prints."""
        rows = each_once(gather(self._rows))
        self._rows = []
        if rows and trainer.is_global_zero:
            self._report(trainer, cast(CodePolicy, pl_module), rows)  # checked by setup

    def _report(self, trainer: Trainer, module: CodePolicy, rows: Sequence[Row]) -> None:
        mode = module.evaluation.mode
        measurement = measure(rows, module.evaluation.pass_at)
        result = {
            **measured(measurement, mode),
            **described(module, rows),
            "dataset": dataset_facts(getattr(trainer, "datamodule", None), rows),
        }
        result["numerics"] |= {"processes": trainer.world_size, "precision": str(trainer.precision)}
        folder = self._folder(trainer)
        show(measurement, mode, rows, self.failures)
        way_out = "Make room and run the test again: the same seed and CPU give the same numbers."
        with name_the_file(f"{folder / COMPLETIONS} and {RESULTS}", way_out):
            write_whole(folder / COMPLETIONS, "".join(as_json(table_row(row)) + "\n" for row in rows))
            write_whole(folder / RESULTS, as_json(result, indent=2) + "\n")
        Console().print(f"Written to {folder / RESULTS} and {folder / COMPLETIONS}", soft_wrap=True, highlight=False)

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir)


def show(measurement: Measurement, mode: str, rows: Sequence[Row], failures: int) -> None:
    """The numbers as a table, what became of the samples, and the first failing completions."""
    console = Console()
    title = f"{mode}, {measurement.samples} samples of {measurement.problems} problems"
    table = Table(title=title, title_justify="left")
    for column in ("", "value", f"{CONFIDENCE:.0%} interval", "problems"):
        table.add_column(column, justify="left" if not column else "right")
    for k, estimate in measurement.pass_at.items():
        interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]"
        table.add_row(f"pass@{k}", f"{estimate.value:.3f}", escape(interval), str(estimate.problems))
    console.print(table)
    ends = [f"{count} {name}" for name, count in measurement.outcomes.items() if count]
    console.print(", ".join([*ends, f"{measurement.truncated} truncated"]), highlight=False)
    for row in [row for row in rows if not row["passed"]][:failures]:
        line = f"{row['task_id']} sample {row['sample']}: {outcome(row)}: {row['detail']}"
        console.print(line, markup=False, highlight=False, overflow="ellipsis", no_wrap=True)
