"""``run.json``: what a run was started with, so that its numbers can be traced and had again."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from .redaction import redacted
from .writing import write_whole

RUN = "run.json"
PACKAGES = (
    "tamis",
    "torch",
    "lightning",
    "torchmetrics",
    "transformers",
    "tokenizers",
    "peft",
    "timm",
    "monai",
    "numpy",
)
_SECONDS = 10.0  # git on a slow network disk; a run does not wait longer to be told its own commit
Section = dict[str, Any]


@rank_zero_only
def write_provenance(
    run_dir: str | Path,
    command: Sequence[str],
    seed: int | None,
    datasets: Mapping[str, str],
    processes: int = 1,
    checkpoint: str | None = None,
) -> None:
    """Write ``run.json``; where it is there already, add to its list ``resumed`` what this start was with.

    No environment variable goes into it, and no secret of the command line, as far as names and forms tell one. The
    layout is in ``docs/run-directory.md``.

    Args:
        run_dir: its directory.
        command: program and arguments.
        seed: of the run; ``None`` where nothing was seeded.
        datasets: digest by name.
        processes: of the whole run, on all machines.
        checkpoint: that a resumed run starts from.

    Raises:
        ValueError: if the file is there and is none that this function has written.
    """
    path = Path(run_dir) / RUN
    start = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redacted(command),
        "seed": seed,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": source_commit(),
        "datasets": dict(datasets),
    }
    if path.exists():
        content = _read(path)
        content["resumed"].append({**start, "checkpoint": checkpoint})
    else:
        content = {**start, "resumed": []}
    write_whole(path, json.dumps(content, indent=2) + "\n")


def source_commit(package: Path | None = None) -> Section | None:
    """Commit of the checkout that tamis runs from, and whether files in it differ from the commit.

    ``None`` for an installed package (whatever repository its environment may lie in), and without git.

    Args:
        package: the package's folder; ``None`` is this one.
    """
    package = (package or Path(__file__).parents[1]).resolve()
    git = shutil.which("git")
    if git is None:
        return None
    try:
        root = Path(_git(git, package, "rev-parse", "--show-toplevel"))
        if package != root.resolve() / "src" / "tamis":
            return None
        commit = _git(git, package, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(git, root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(program: str, folder: Path, *arguments: str) -> str:
    # Variables such as GIT_DIR, which a hook sets for its children, would make it tell of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [program, "--no-optional-locks", "-C", str(folder), *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=True, errors="replace"
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: Path) -> Section:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("resumed"), list):
        raise ValueError(
            f"{path} is no file that tamis has written (no JSON object with a list `resumed`), and a resumed run adds "
            "to it. Repair it or move it away."
        )
    return content
