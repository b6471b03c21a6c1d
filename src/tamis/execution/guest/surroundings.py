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
        """Whether a test has left all as it was, and imported nothing that was not there."""
        if self._read_settings() != self._settings or sys.modules != self._modules:
            return False
        names = [vars(module) for module in self._modules.values()]
        return names == self._names or all(map(_same, names, self._names))  # first at the speed of C

    def imported(self) -> list[str]:
        """The modules that a test was the first to import."""
        new = sys.modules.keys() - self._modules.keys()
        return sorted(name for name in new if getattr(getattr(sys.modules[name], "__spec__", None), "name", "") == name)

    @staticmethod
    def _read_settings() -> tuple[Any, ...]:
        return (
            sys.getrecursionlimit(),
            sys.get_int_max_str_digits(),
            (decimal.getcontext().prec, decimal.getcontext().rounding),
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
