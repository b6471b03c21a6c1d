"""Turning one option at a time, and looking at what becomes another."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

Options = dict[str, Any]
#: Makes the object with these options, exercises it, and returns what is then to be seen. The folder is empty.
Part = Callable[[Any, Path, Options], Any]


class Of(NamedTuple):
    """An option's value that is known only when the tests run: an attribute of their material."""

    name: str


@dataclass(frozen=True)
class Turn:
    """One option, turned.

    Args:
        value: its other value.
        sees: the part that is to see a difference, ``part/item`` where it returns several things.
        given: options of both runs without which this one is not asked for.
        refused: what the error says with the other value, where an error is the effect.
        refused_before: what the error says with the base value, where the option is what lifts an error.
    """

    value: Any
    sees: str
    given: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    refused_before: str = ""


@dataclass(frozen=True)
class Knobs:
    """A class's options.

    Args:
        parts: ways to exercise an object of the class, by name.
        turns: one of each option.
        base: options that every object is given, unless a turn says otherwise.
    """

    parts: Mapping[str, Part]
    turns: Mapping[str, Turn]
    base: Mapping[str, Any] = field(default_factory=dict)


class Refused(NamedTuple):
    """An error in place of what there is to see."""

    message: str


class Bench:
    """Runs parts, those with base options once for all turns that compare with them.

    Args:
        material: what the parts work on.
        folder: each run gets a new one in it.
    """

    def __init__(self, material: Any, folder: Path) -> None:
        self.material, self.folder = material, folder
        self._runs = 0
        self._seen: dict[tuple[str, str, str], Any] = {}

    def check(self, name: str, knobs: Knobs, option: str) -> None:
        """Assert that the option changes what its turn says, and that nothing changes without it."""
        turn = knobs.turns[option]
        part, _, item = turn.sees.partition("/")
        given = {**knobs.base, **turn.given}
        key = (name, part, repr(sorted(given.items())))
        if key not in self._seen:
            self._seen[key], again = (self._run(knobs.parts[part], given) for _ in range(2))
            if not same(self._seen[key], again):
                raise AssertionError(
                    f"{name}.{part} differs from run to run: {str(self._seen[key])[:500]} and {str(again)[:500]}"
                )
        both = self._seen[key], self._run(knobs.parts[part], {**given, option: turn.value})
        before, after = (seen if isinstance(seen, Refused) or not item else seen[item] for seen in both)
        _check_refusal(before, turn.refused_before)
        _check_refusal(after, turn.refused)
        if same(before, after):
            raise AssertionError(f"{name}: {option}={turn.value!r} changes nothing of {turn.sees}: {str(before)[:500]}")

    def check_choices(self, name: str, knobs: Knobs, option: str, choices: Sequence[Any]) -> None:
        """Assert that no two choices of an option come to the same; some may be refused here, each in its own words."""
        turn = knobs.turns[option]
        part, _, item = turn.sees.partition("/")
        given = {**knobs.base, **turn.given}
        seen = [self._run(knobs.parts[part], {**given, option: choice}) for choice in choices]
        found = [one if isinstance(one, Refused) or not item else one[item] for one in seen]
        for number, one in enumerate(found):
            for other in range(number):
                if same(one, found[other]):
                    raise AssertionError(f"{name}: {option} {choices[number]!r} and {choices[other]!r} are the same")

    def _run(self, part: Part, options: Options) -> Any:
        self._runs += 1
        folder = self.folder / str(self._runs)
        folder.mkdir()
        known = {name: getattr(self.material, v.name) if isinstance(v, Of) else v for name, v in options.items()}
        torch.manual_seed(0)
        try:
            return part(self.material, folder, known)
        except (ValueError, OSError, RuntimeError, MisconfigurationException) as error:
            return Refused(str(error))


def choices_of(kind: type) -> dict[str, list[str]]:
    """The options of a class that are one of several words, and these."""
    hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    words = {name: [word for word in _words(hint) if isinstance(word, str)] for name, hint in hints.items()}
    return {name: found for name, found in words.items() if len(found) > 2}


def _words(hint: Any) -> list[Any]:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return list(parts)
    return [word for part in parts for word in _words(part)] if typing.get_origin(hint) in (Union, UnionType) else []


def same(one: Any, other: Any) -> bool:
    """Equal in kind, shape and every number; NaN equals itself."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one) and not isinstance(one, type):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other or (one != one and other != other))


def _check_refusal(seen: Any, expected: str) -> None:
    if expected:
        assert isinstance(seen, Refused), f"no error, but {seen}"
        assert re.search(expected, seen.message), seen.message
    else:
        assert not isinstance(seen, Refused), seen.message
