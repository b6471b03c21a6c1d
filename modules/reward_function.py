"""A user's Python function as a reward: finding it by name, and what it is called with."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .reward_failures import FAILURE

Function = Callable[..., Any]
Columns = dict[str, list[Any]]

_WAYS = (
    "name a function as package.module:function, package.module.function or path/to/file.py:function "
    "(the working directory is searched, too)"
)
# What the two first arguments are, and what other rewards note: it would depend on their order.
_NO_COLUMNS = frozenset({"prompt", "prompts", "completion", "completions", "verdict", FAILURE})
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def columns_of(records: Sequence[Mapping[str, Any]]) -> Columns:
    """Each field of the records as a list of one value a row; the fields of the tasks' own rows are among them.

    A field that a row lacks is ``None`` there. A record's field goes before its task's of the same name.
    """
    rows = []
    for record in records:
        task = record.get("task")
        own = {name: value for name, value in task.items() if name[:1] != "_"} if isinstance(task, Mapping) else {}
        rows.append({**own, **record})
    names = dict.fromkeys(name for row in rows for name in row if name not in _NO_COLUMNS)
    return {name: [row.get(name) for row in rows] for name in names}


class RewardFunction:
    """A callable with the columns that it asks for: those it names, or all if it takes ``**columns``.

    A function with a parameter ``completions`` is called by names, in whatever order it has them; any other gets
    prompts and completions as its first two arguments.

    Args:
        function: a callable, or its name.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a name that leads nowhere, or to something that cannot be called like this.
    """

    def __init__(self, function: str | Function) -> None:
        self.name = function if isinstance(function, str) else getattr(function, "__qualname__", repr(function))
        self.function = load_function(function) if isinstance(function, str) else function
        if not callable(self.function):
            raise ValueError(f"{self.name} is a {type(self.function).__name__} and cannot be called; {_WAYS}")
        if inspect.iscoroutinefunction(self.function):
            raise ValueError(f"{self.name} is an async function; a reward must be a plain one that returns its numbers")
        try:
            self.parameters = dict(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):  # some built-in ones have no signature
            self.parameters = {}
        kinds = {parameter.kind for parameter in self.parameters.values()}
        self.takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self.by_name = getattr(self.parameters.get("completions"), "kind", None) in _BY_NAME
        self.check(None)

    def check(self, columns: Iterable[str] | None) -> None:
        """Refuse a function that could not be called, before it is.

        Args:
            columns: those that there are; ``None`` is: any.

        Raises:
            ValueError: naming the function, what it takes and what there is.
        """
        if not self.parameters:
            return
        names = list(self.parameters) if columns is None else list(columns)
        arguments, keywords = self._arguments([], [], {name: [] for name in names})
        try:
            inspect.signature(self.function).bind(*arguments, **keywords)
        except TypeError as error:
            there = "" if columns is None else f"; the columns there are: {', '.join(sorted(names)) or 'none'}"
            raise ValueError(
                f"the reward {self.name}{inspect.signature(self.function)} cannot be called ({error}); it must take "
                f"(prompts, completions, **columns), or name the columns that it wants{there}"
            ) from error

    def __call__(self, prompts: list[str], completions: list[str], columns: Columns) -> Any:  # noqa: ANN401
        """What the function returns."""
        arguments, keywords = self._arguments(prompts, completions, columns)
        return self.function(*arguments, **keywords)

    def _arguments(
        self, prompts: list[str], completions: list[str], columns: Columns
    ) -> tuple[list[list[str]], dict[str, list[Any]]]:
        named = {name for name, parameter in self.parameters.items() if parameter.kind in _BY_NAME}
        if self.by_name:
            there = {**columns, "prompts": prompts, "completions": completions}
            return [], {name: values for name, values in there.items() if self.takes_all or name in named}
        taken = set(list(self.parameters)[:2])
        keywords = {name: values for name, values in columns.items() if name not in taken | _NO_COLUMNS}
        return [prompts, completions], {
            name: values for name, values in keywords.items() if self.takes_all or name in named
        }


def load_function(name: str) -> Function:
    """The function of that name.

    Args:
        name: ``package.module:function``, ``package.module.function`` or ``path/to/file.py:function``.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a module that cannot be imported, or that has no such function.
    """
    place, mark, attribute = name.rpartition(":" if ":" in name else ".")
    if not mark or not place or not attribute:
        raise ValueError(f"{name!r} is no name of a function; {_WAYS}")
    found: Any = _from_file(Path(place)) if place.endswith(".py") else _import(name, place)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [key for key in vars(found) if key[:1] != "_"], 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{place} has no {part!r}, which {name!r} names; {_WAYS}.{hint}")
        found = getattr(found, part)
    function: Function = found
    return function


def _import(name: str, module: str) -> ModuleType:
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)  # a console script's own folder stands there instead
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{name!r} cannot be imported ({error}); {_WAYS}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with a reward function; {_WAYS}")
    spec = importlib.util.spec_from_file_location(f"reward_function_of_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; {_WAYS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(
            f"{path} cannot be run ({type(error).__name__}: {error}); it must define the reward"
        ) from error
    return module
