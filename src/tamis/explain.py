"""Making a configuration parser's complaints readable: the cause without the noise, and the nearest right key."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import textwrap
import traceback
from collections.abc import Iterable
from pathlib import Path

# What jsonargparse says beside the cause when a value fits none of a type's alternatives.
_NOISE = re.compile(
    r"^\s*(- )?(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |"
    r"Given value: |Expected a <class 'NoneType'>|Expected a path but )"
)
_UNKNOWN = re.compile(
    r"unrecognized arguments: -*(?P<argument>[\w.]+)|does not accept option '(?P<option>[\w.]+)'|"
    r"Option '(?P<init_arg>[\w.]+)' is not accepted|Expected a dot import path string: (?P<class_name>\w+)"
)
_CLASS_PATH = re.compile(r"Problem with given class_path '(?P<class_path>[\w.]+)'")


def explain(message: str, known_keys: Iterable[str], class_names: Iterable[str]) -> str:
    """The message without its noise, and the key that was probably meant.

    Args:
        message: what jsonargparse says.
        known_keys: the options there are, dotted.
        class_names: short names of the classes that may stand as a ``class_path``.
    """
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    text = textwrap.dedent("\n".join(re.sub(r"^(\s*)- ", r"\1", line) for line in lines))
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        return text
    candidates = list(known_keys)
    if unknown["init_arg"] is not None:
        candidates = _init_arguments(text)
    elif unknown["class_name"] is not None:
        candidates = list(class_names)
    nearest = nearest_key(next(group for group in unknown.groups() if group), candidates)
    return text if nearest is None else f"{text}\n  Did you mean {nearest!r}?"


def raised_by_tamis(error: BaseException) -> bool:
    """Whether a ``raise`` of this package made the error, so that it says by itself what is wrong."""
    stack = traceback.extract_tb(error.__traceback__)
    if not stack or not (stack[-1].line or "").startswith("raise "):
        return False  # what Python or torch object to in a line of ours is a bug, and wants its stack
    package = Path(__file__).resolve().parent
    folders = [package, *(link.resolve() for link in package.iterdir() if link.is_symlink())]
    return any(Path(stack[-1].filename).resolve().is_relative_to(folder) for folder in folders)


def nearest_key(unknown: str, known: Iterable[str]) -> str | None:
    """The known key closest to an unknown one, compared whole and then by its last part."""
    keys = list(dict.fromkeys(known))
    whole = difflib.get_close_matches(unknown, keys, 1, 0.8)
    if whole:
        return whole[0]
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in keys}
    leaf = difflib.get_close_matches(unknown.rsplit(".", 1)[-1], by_leaf, 1, 0.6)
    return by_leaf[leaf[0]] if leaf else None


def _init_arguments(text: str) -> list[str]:
    """Constructor arguments of the last class that the message names."""
    paths = _CLASS_PATH.findall(text)
    if not paths:
        return []
    module, name = paths[-1].rsplit(".", 1)
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
