"""TensorBoard's file: what it holds, and a full disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tamis.run_dir.events_file import EventsFile

# Its writer has a thread, whose end comes to light in whichever test is next.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
Limit = Callable[[int], AbstractContextManager[None]]


def steps(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder)).Reload()
    return [event.step for event in events.Scalars("loss")]


def log(logger: EventsFile, numbers: range) -> None:
    for step in numbers:
        logger.log_metrics({"loss": 1.0 / (step + 1)}, step)
        logger.save()


def test_steps_behind_the_checkpoint_are_hidden_when_a_run_is_resumed(tmp_path: Path) -> None:
    killed = EventsFile(tmp_path)
    log(killed, range(1, 7))
    killed.experiment.close()
    resumed = EventsFile(tmp_path, keep_until=4)
    log(resumed, range(5, 9))
    resumed.finalize("success")
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(path.name.startswith("events.out.tfevents") for path in tmp_path.iterdir())


def test_a_full_disk_stops_the_file_and_nothing_else(files_of: Limit, tmp_path: Path) -> None:
    logger = EventsFile(tmp_path)
    log(logger, range(5))
    (file,) = tmp_path.iterdir()
    with files_of(file.stat().st_size + 20):
        with pytest.warns(match=r"TensorBoard's file in .* could not be written: File too large") as said:
            log(logger, range(5, 12))
        assert len(said) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            logger.experiment.add_image("noise", np.zeros((2, 2, 3), np.uint8), 3, dataformats="HWC")
            logger.log_hyperparams({"lr": 0.1})
            logger.finalize("success")
    log(logger, range(12, 20))
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


def test_a_disk_that_is_full_from_the_start(files_of: Limit, tmp_path: Path) -> None:
    logger = EventsFile(tmp_path)
    with files_of(10), pytest.warns(match="TensorBoard's file"):
        log(logger, range(3))


def test_what_is_wrong_besides_the_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        log(EventsFile(tmp_path / "file" / "run"), range(1))
    with pytest.raises(ValueError, match="not supported"):
        EventsFile(tmp_path).log_metrics({"loss": "three"}, 0)  # type: ignore[dict-item]
