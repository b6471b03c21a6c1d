"""Reading JSONL files of tasks, demonstrations and preferences."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SLICE = re.compile(r"^(?P<path>.*)\[(?P<start>\d*):(?P<stop>\d*)\]$")


def read_jsonl(source: str, required: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of a JSONL file (or a JSON array; either may be gzipped), each with its place as ``_source``.

    Args:
        source: a path, optionally with a range of rows as in ``tasks.jsonl[2000:3500]``.
        required: keys that every row must have.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: naming file and line, for a line that does not parse, is no object or lacks a key; for no rows, or
            a file that is not UTF-8 or not whole.
    """
    match = _SLICE.match(source)
    path = Path(match["path"] if match else source)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {str(path)!r}; give a .jsonl, .jsonl.gz or .json file of rows, or a range of its rows "
            "as in FILE[0:100]"
        )
    rows = _parse(path)
    for row in rows:
        for key in required:
            if key not in row:
                raise ValueError(
                    f"{row['_source']}: the key {key!r} is missing; the row has {sorted(set(row) - {'_source'})}"
                )
    if match:
        rows = rows[int(match["start"] or 0) : int(match["stop"]) if match["stop"] else None]
    if not rows:
        raise ValueError(f"{source}: no rows; the file is empty or the range lies outside it")
    return rows


def _parse(path: Path) -> list[dict[str, Any]]:
    text = _read(path)
    if text.lstrip().startswith("["):
        items = list(enumerate(_loads(text, f"{path}"), start=1))
    else:
        # Not splitlines: JSON strings may hold the line separators of Unicode as they are.
        lines = enumerate(text.split("\n"), start=1)
        items = [(number, _loads(line, f"{path}:{number}")) for number, line in lines if line.strip()]
    for number, item in items:
        if not isinstance(item, dict):
            raise ValueError(
                f"{path}:{number}: expected an object, got {type(item).__name__}; a row is a JSON object, as in "
                '{"prompt": "..."}'
            )
    return [{**item, "_source": f"{path}:{number}"} for number, item in items]


def _read(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            text: str = file.read()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{path}: not UTF-8 text (byte 0x{byte:02x} at position {error.start}); save the file as UTF-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); copy or pack it again") from error
    return text


def _loads(text: str, place: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: not valid JSON ({error.msg} at column {error.colno}); a .jsonl file has one JSON object a line"
        ) from error


def check_texts(row: Mapping[str, Any], keys: Sequence[str], hint: str = "") -> None:
    """Refuse a row in which one of the texts is missing, empty or no text.

    Args:
        row: of `read_jsonl`.
        keys: of its texts.
        hint: what to do about one that is no text.

    Raises:
        ValueError: naming file, line and key.
    """
    for key in keys:
        if not isinstance(row[key], str):
            raise ValueError(
                f"{row['_source']}: {key} must be a text, got {type(row[key]).__name__}; "
                f"{hint or 'mend or drop the row'}"
            )
        if not row[key].strip():
            raise ValueError(f"{row['_source']}: {key} is empty; mend or drop the row")
