"""Leaving classes out: an anatomy, a modality or some pathologies, to be met only after pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase


def filter_classes(
    names: Sequence[str], only: Sequence[str] | None = None, without: Sequence[str] | None = None
) -> list[str]:
    """The classes that patterns leave.

    Args:
        names: the classes.
        only: patterns of the classes to keep, such as ``MR__knee__*``; all without.
        without: patterns of the classes to leave out, such as ``*__normal``, also among those of ``only``. In a
            pattern ``*`` is any text, ``?`` any character and ``[ab]`` one of some; capitals count.

    Returns:
        Those of ``names``, in their order.

    Raises:
        ValueError: if a pattern fits no class, or fewer than two are left.
    """
    for option, patterns in (("only", only), ("without", without)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"no class fits the pattern {pattern} of {option}; {_near(pattern, names)}")
    kept = [name for name in names if (only is None or _fits(name, only)) and not _fits(name, without or ())]
    if len(kept) < 2:
        if not (only or without):
            raise ValueError(
                f"the data has {len(names)} class{'' if len(names) == 1 else 'es'} ({_text(names)}); a classifier "
                "needs two to tell apart, so give data with more"
            )
        left = f"one class, {kept[0]}" if kept else "no class"
        raise ValueError(
            f"of {len(names)} classes, only: {_text(only)} and without: {_text(without)} leave {left}; a classifier "
            "needs two"
        )
    return kept


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _near(pattern: str, names: Sequence[str]) -> str:
    """Names like the pattern, capitals aside, or the first ones."""
    caseless = [name for name in names if fnmatchcase(name.lower(), pattern.lower())]
    whole = {name.lower(): name for name in names}
    close = [whole[found] for found in get_close_matches(pattern.lower().replace("*", ""), whole, n=3, cutoff=0.4)]
    near = (caseless or close)[:3]
    if near:
        return f"near it are {', '.join(near)}"
    return f"there are {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def _text(patterns: Sequence[str] | None) -> str:
    return ", ".join(patterns) if patterns else "nothing"
