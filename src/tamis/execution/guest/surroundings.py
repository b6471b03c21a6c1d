"""What one test could leave behind for the next: noticed, so that the server can make way for a fresh one."""

from __future__ import annotations

import decimal
import os
import sys
import types
import warnings
from typing import Any


class Surroundings:
    """The state that all tests share, as it is when this is made."""

    def __init__(self) -> None:
        self._modules = dict(sys.modules)
        self._names = [dict(vars(module)) for module in self._modules.values()]
        self._settings = self._read_settings()

    def unchanged(self) -> bool:
        """Whether a test has left all as it was, but for modules that it was the first to import."""
        if self._read_settings() != self._settings or not self._modules.items() <= sys.modules.items():
            return False
        names = [vars(module) for module in self._modules.values()]
        if names != self._names and not all(map(_same, names, self._names)):  # first at the speed of C
            return False
        return all(_is_import(name) for name in sys.modules.keys() - self._modules.keys())

    @staticmethod
    def _read_settings() -> tuple[Any, ...]:
        return (
            sys.getrecursionlimit(),
            sys.get_int_max_str_digits(),
            repr(decimal.getcontext()),
            list(warnings.filters),
            dict(os.environ),
            os.getcwd(),
        )


def _same(names: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether the names mean what they meant. Imports and warnings leave a note in modules, which does not matter."""
    changed = [name for name, value in names.items() if value is not known.get(name)]
    return known.keys() <= names.keys() and all(
        name == "__warningregistry__" or isinstance(names[name], types.ModuleType) for name in changed
    )


def _is_import(name: str) -> bool:
    specification = getattr(sys.modules[name], "__spec__", None)
    return getattr(specification, "name", None) == name
