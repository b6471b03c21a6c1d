"""Which tasks a number stands on: source, version, digests, and what of them a training file holds as well."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from ..datamodules import CodeTasks
from ..datamodules.code_tasks import task_record
from ..datamodules.task_files import load_tasks

Row = Mapping[str, Any]
Section = dict[str, Any]


def dataset_facts(datamodule: object, rows: Sequence[Row]) -> Section:
    """The result file's section on its tasks. Paths are left out, names stay: a file is known by its digest.

    Args:
        datamodule: where the tasks came from; one that is no `CodeTasks` (or ``None``) says less.
        rows: the judged samples with their records, each once and in order.
    """
    tasks = {str(row["task_id"]): row["task"] for row in rows}
    facts: Section = {
        "benchmarks": sorted({str(row["benchmark"]) for row in rows if row.get("benchmark")}),
        "files": _files(tasks.values()),
        "tasks_sha256": tasks_digest(list(tasks.values())),
    }
    if isinstance(datamodule, CodeTasks):
        source, train = datamodule.files["test"], datamodule.files["train"]
        facts["source"] = source and _name(source)
        facts["version"] = source and _version(source)
        facts["rows"] = len(datamodule.records.get("test", ()))
        facts["eval_batch_size"] = datamodule.eval_batch_size
        facts["shots"] = datamodule.shots and _name(datamodule.shots)
        facts["training_overlap"] = train and _overlap(train, tasks)
    return facts


def tasks_digest(tasks: Sequence[Row]) -> str:
    """SHA-256 of the tasks' content in this order, whichever file they were read from."""
    digest = hashlib.sha256()
    for task in tasks:
        content = {key: value for key, value in task.items() if key != "_source"}
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def same_text(text: str) -> str:
    """Digest of a prompt without its case and white space, by which equal ones are found."""
    return hashlib.sha256("".join(text.lower().split()).encode(errors="surrogatepass")).hexdigest()


def _overlap(train: str, tasks: Mapping[str, Row]) -> Section | None:
    """Test tasks that ask the same as a training task. Near copies and translations are not found.

    ``None`` where the training file cannot be read: a test that has been run is worth its result without it.
    """
    try:
        known = {same_text(_asked(row)) for row in load_tasks(train)}
    except (OSError, ValueError, ImportError) as error:
        rank_zero_warn(f"whether test tasks were trained on is not known, because {train} cannot be read: {error}")
        return None
    shared = [task_id for task_id, task in tasks.items() if same_text(_asked(task)) in known]
    return {"train": _name(train), "train_prompts": len(known), "shared": len(shared), "task_ids": shared}


def _asked(row: Row) -> str:
    """The prompt in the benchmark's own style, so that both sides are put alike."""
    return str(task_record({"_source": "", **row})["prompt"])


def _files(tasks: Any) -> list[Section]:  # noqa: ANN401 - a view of a dict's values
    paths = sorted({Path(str(task.get("_source", "")).rpartition(":")[0]) for task in tasks})
    return [
        {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths if path.is_file()
    ]


def _name(source: str) -> str:
    """A hub's or package's name as it is, a file's without its folder."""
    return source if source.startswith(("hub:", "package:")) else Path(source).name


def _version(source: str) -> str | None:
    if not source.startswith("package:"):
        return None
    try:
        return version(source.removeprefix("package:").partition("[")[0])
    except PackageNotFoundError:  # a checkout that is on the path without being installed
        return None
