"""Commands in processes of their own, each once: a folder remembers what has finished there, and what it cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# One thread: for models this small a second one only waits for the first, and CPU seconds would count the waiting.
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class Stage(NamedTuple):
    """One command.

    Attributes:
        name: its own in the folder.
        arguments: what stands behind ``python -m``.
        leaves: files or folders that it makes, from the folder; what a broken-off try has left of them is removed.
    """

    name: str
    arguments: tuple[str, ...]
    leaves: tuple[str, ...]


class Folder:
    """Where the commands run, and their records and logs.

    Args:
        path: made if it is not there; it is the commands' working directory.
        settings: what a second run in the same folder must not change.

    Raises:
        SystemExit: for a folder that was begun with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path.resolve()
        self.commit = commit()
        for name in ("stages", "logs"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        begun = self.path / "settings.json"
        if begun.exists() and (earlier := json.loads(begun.read_text(encoding="utf-8"))) != settings:
            changed = {key: (earlier.get(key), settings[key]) for key in settings if earlier.get(key) != settings[key]}
            sys.exit(f"{path} was begun with other settings (then, now): {changed}. Give the same, or a new folder.")
        begun.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def record(self, name: str) -> dict[str, Any] | None:
        """What a finished stage has cost (``cpu_s``, ``wall_s``), and the commit that it ran on."""
        file = self.path / "stages" / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def run(self, stage: Stage) -> None:
        """Run it, unless it has finished before.

        Raises:
            RuntimeError: if it fails, with the end of its log.
        """
        if self.record(stage.name) is not None:
            return
        for name in stage.leaves:
            shutil.rmtree(self.path / name, ignore_errors=True)
        log = self.path / "logs" / f"{stage.name}.log"
        code, cost = measured([sys.executable, "-m", *stage.arguments], self.path, log)
        if code:
            raise RuntimeError(f"{' '.join(stage.arguments)} failed, see {log}:\n{log.read_text()[-2000:]}")
        record = {"command": stage.arguments, "commit": self.commit, **cost}
        partial = self.path / "stages" / f"{stage.name}.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(partial.with_suffix(".json"))

    def run_all(self, chains: Sequence[Sequence[Stage]], jobs: int, tell: Callable[[str, bool], None]) -> None:
        """Run chains of stages, some chains at a time; the first failure starts no new stage and is raised.

        Args:
            chains: each in its own order.
            jobs: how many at a time.
            tell: is called with a stage's name, and whether it has ended.
        """
        broken = False

        def follow(chain: Sequence[Stage]) -> None:
            nonlocal broken
            for stage in chain:
                if broken:
                    return
                tell(stage.name, False)
                try:
                    self.run(stage)
                except BaseException:
                    broken = True
                    raise
                tell(stage.name, True)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                for future in [pool.submit(follow, chain) for chain in chains]:
                    future.result()
            except BaseException:  # a key press, say: the pool would go on to the next stage
                broken = True
                raise


def measured(command: Sequence[str], folder: Path, log: Path) -> tuple[int, dict[str, float]]:
    """Run a command; returns its exit code and what it, and every process that it waited for, has cost."""
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | QUIET, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped; subprocess need not wait for it
    cost = {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.perf_counter() - started}
    return process.returncode, cost


def commit() -> str:
    """The checkout's commit, with a plus if files differ from it; ``unknown`` outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
