"""metrics.csv and timing.csv: Lightning's rows, whole lines, resume, a full disk."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from tamis.run_dir.metrics_file import MetricsFile

Event = tuple[int, dict[str, float]]
Limit = Callable[[int], AbstractContextManager[None]]

# As a policy logs them: validation behind iteration k has the step k - 1, because Lightning counts batches from 0.
POLICY: list[Event] = [
    (1, {"iteration": 1.0, "rollout/reward_mean": 0.1, "timing/act_s": 0.5}),
    (0, {"epoch": 0, "val/loss": 3.0}),
    (2, {"iteration": 2.0, "rollout/reward_mean": 0.2, "timing/act_s": 0.6}),
    (1, {"epoch": 0, "val/loss": 2.0}),
    (3, {"iteration": 3.0, "rollout/reward_mean": 1 / 3, "filter/kept": 4.0, "timing/act_s": 0.7}),
    (2, {"epoch": 1, "val/loss": float("nan")}),
    (4, {"iteration": 4.0, "rollout/reward_mean": 0.4, "timing/act_s": 0.8}),
]
# As a module with automatic optimisation does: an epoch's row has the step of the next epoch's first batch.
SUPERVISED: list[Event] = [
    (0, {"epoch": 0, "loss": 3.0}),
    (1, {"epoch": 0, "loss": 2.0}),
    (1, {"epoch": 0, "val/loss": 2.5}),
    (2, {"epoch": 0, "train/accuracy": 0.5}),
    (2, {"epoch": 1, "loss": 1.0}),
    (3, {"epoch": 1, "loss": 0.5}),
]


def log(logger: MetricsFile | CSVLogger, events: Sequence[Event]) -> None:
    for step, metrics in events:
        logger.log_metrics(dict(metrics), step)
        logger.save()


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("events", [POLICY, SUPERVISED])
def test_rows_are_lightnings_without_the_times(events: list[Event], tmp_path: Path) -> None:
    log(MetricsFile(tmp_path / "ours"), events)
    log(CSVLogger(str(tmp_path / "theirs"), name="", version=""), events)
    theirs = read(tmp_path / "theirs" / "metrics.csv")
    times = [name for name in theirs[0] if name.startswith("timing/")]
    assert read(tmp_path / "ours" / "metrics.csv") == [
        {name: cell for name, cell in row.items() if name not in times} for row in theirs
    ]
    if times:
        timing = read(tmp_path / "ours" / "timing.csv")
        assert timing == [{name: row[name] for name in ("step", *times)} for row in theirs if row[times[0]]]
    else:
        assert not (tmp_path / "ours" / "timing.csv").exists()


def test_each_row_is_on_the_disk_as_soon_as_it_is_saved(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    for number, (step, metrics) in enumerate(POLICY, start=1):
        log(logger, [(step, metrics)])
        assert (tmp_path / "metrics.csv").read_text().count("\n") == number + 1
    assert logger.log_dir == logger.save_dir == str(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "timing.csv"]


def test_scalars_of_tensors_and_rows_without_a_step(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": torch.tensor(0.5)})
    logger.log_metrics({"loss": torch.tensor(0.25)})
    logger.finalize("success")
    assert read(tmp_path / "metrics.csv") == [{"loss": "0.5", "step": "0"}, {"loss": "0.25", "step": "1"}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    ("events", "keep_until", "killed_behind", "resumed_from"),
    [
        (POLICY, 2, 3, 3),  # before the validation of the checkpoint's iteration
        (POLICY, 2, 4, 4),  # behind it
        (POLICY, 2, 6, 4),  # a validation with a step like the checkpoint's, but later: it goes with what is before it
        (POLICY, 2, 7, 4),  # and so does a column that only dropped rows had
        (POLICY, 2, 7, 3),  # a validation that is run again
        (POLICY, 4, 7, 7),  # nothing is dropped
        (POLICY, 0, 7, 0),  # everything is
        (SUPERVISED, 1, 5, 3),  # the checkpoint of an epoch's last batch
        (SUPERVISED, 2, 6, 4),  # that of the epoch's end: the next batch, of the same step, is logged again
        (SUPERVISED, 2, 6, 3),  # and so is the epoch's row
    ],
)
def test_killed_and_resumed_is_as_never_stopped(
    events: list[Event], keep_until: int, killed_behind: int, resumed_from: int, tmp_path: Path
) -> None:
    log(MetricsFile(tmp_path / "whole"), events)
    log(MetricsFile(tmp_path / "killed"), events[:killed_behind])
    log(MetricsFile(tmp_path / "killed", keep_until), events[resumed_from:])
    assert (tmp_path / "killed" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_times_alone_make_no_row_of_metrics(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), [(0, {"epoch": 0, "timing/s": 0.5})])
    assert [path.name for path in tmp_path.iterdir()] == ["timing.csv"]


def test_a_row_that_is_logged_again_replaces_the_old_one(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), SUPERVISED)
    log(MetricsFile(tmp_path, keep_until=2), [(2, {"epoch": 1, "loss": 7.0}), (3, {"epoch": 1, "loss": 8.0})])
    assert [row["loss"] for row in read(tmp_path / "metrics.csv")] == ["3.0", "2.0", "", "", "7.0", "8.0"]


def test_only_a_row_of_the_same_names_is_replaced_and_only_once(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), SUPERVISED[:5])
    logger = MetricsFile(tmp_path, keep_until=2)
    log(logger, [(2, {"epoch": 0, "train/accuracy": 0.75})])
    rows = read(tmp_path / "metrics.csv")
    assert [(row["train/accuracy"], row["loss"]) for row in rows[3:]] == [("0.75", ""), ("", "1.0")]
    log(logger, [(2, {"epoch": 0, "train/accuracy": 1.0})])
    assert [row["train/accuracy"] for row in read(tmp_path / "metrics.csv")[3:]] == ["0.75", "", "1.0"]


def test_a_column_of_dropped_rows_only_is_dropped_with_them(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), POLICY)
    log(MetricsFile(tmp_path, keep_until=2), POLICY[:1])
    assert list(read(tmp_path / "metrics.csv")[0]) == ["epoch", "iteration", "rollout/reward_mean", "step", "val/loss"]


def test_a_line_that_a_dead_machine_cut_off_goes(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path / "whole"), POLICY)
    log(MetricsFile(tmp_path / "cut"), POLICY[:4])
    path = tmp_path / "cut" / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-3])
    log(MetricsFile(tmp_path / "cut"), POLICY[3:])
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("loss,step\n0.5,0\n0.25,one\n")
    with pytest.raises(ValueError, match=r"metrics\.csv, row 2: no step in it \(one\).*new --run_dir"):
        MetricsFile(tmp_path, keep_until=3)
    assert (tmp_path / "metrics.csv").read_text() == "loss,step\n0.5,0\n0.25,one\n"


@pytest.mark.parametrize("column", ["an old column", "a new column"])
def test_a_full_disk_costs_no_row(column: str, files_of: Limit, tmp_path: Path) -> None:
    name = "loss" if column == "an old column" else "another"
    events = [(step, {"loss": step / 7}) for step in range(20)]
    later = [(step, {name: step / 7}) for step in range(20, 60)]
    log(MetricsFile(tmp_path / "whole"), [*events, *later, (60, {"loss": 1.0})])
    logger, path = MetricsFile(tmp_path / "full"), tmp_path / "full" / "metrics.csv"
    log(logger, events)
    before = path.read_bytes()
    with files_of(len(before) + 10), pytest.warns(match=r"metrics\.csv could not be written: File too") as said:
        log(logger, later)
    assert path.read_bytes() == before  # whole lines only
    assert len(said) == 1
    assert sorted(path.name for path in path.parent.iterdir()) == ["metrics.csv"]
    log(logger, [(60, {"loss": 1.0})])
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def test_rows_without_room_at_the_end_are_counted(files_of: Limit, tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    log(logger, [(0, {"loss": 0.5})])
    with files_of(16), pytest.warns(match="rows wait in memory"):
        log(logger, [(1, {"loss": 0.25}), (2, {"loss": 0.125})])
    with files_of(16), pytest.warns(match="its last 2 rows are lost"):
        logger.finalize("success")
    assert [row["step"] for row in read(tmp_path / "metrics.csv")] == ["0"]


def test_any_other_error_of_the_system_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match="metrics"):
            log(MetricsFile(tmp_path), [(0, {"loss": 0.5})])
