"""The command line on one process, which is this one, or on two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .harness import Ranks


def tamis(ranks: Ranks, processes: int, folder: Path, flags: Sequence[str]) -> Path:
    """Run one command with ``folder`` for its run directory, which is returned."""
    from tamis.cli import run  # here: conftest imports this module

    flags = [*flags, f"--run_dir={folder}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    if processes == 1:
        run([*flags, "--trainer.devices=1"])
    else:
        ranks(_run, [*flags, f"--trainer.devices={processes}", "--trainer.strategy=ddp"])
    return folder


def _run(flags: list[str]) -> None:
    from tamis.cli import run

    run(flags)
