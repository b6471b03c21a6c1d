"""Options of this run and of the run that a checkpoint is from: which one counts, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

# What a run is called and where it lies is no property of the checkpoint.
_OF_THE_COMMAND = ("config", "run_dir", "resume", "ckpt_path", "weights_only", "verbose", "return_predictions")


def options_to_take_over(config: str, subcommand: str) -> str:
    """The part of a checkpoint's configuration that holds where today's command and config say nothing.

    Args:
        config: YAML of the run that wrote it.
        subcommand: evaluation takes the model and the data alone: how a run trained is nothing to it.
    """
    options = yaml.safe_load(config) or {}
    for key in _OF_THE_COMMAND:
        options.pop(key, None)
    if subcommand != "fit":
        options = {key: options[key] for key in ("model", "data") if options.get(key) is not None}
    if isinstance(options.get("checkpoint"), dict):
        options["checkpoint"].pop("resume_despite", None)
    return yaml.safe_dump(options, sort_keys=False)


def differing_options(then: str, now: str) -> list[str]:
    """One line an option of both runs that differs: ``name: then -> now``, or ``not set``.

    Args:
        then: YAML of the run that wrote the checkpoint.
        now: YAML of this run.
    """
    old, new = (dict(_flat(yaml.safe_load(text) or {})) for text in (then, now))
    names = [name for name in {**old, **new} if name.split(".")[0] not in _OF_THE_COMMAND]
    told = {name: (_told(old.get(name)), _told(new.get(name))) for name in names}
    return [f"{name}: {before} -> {after}" for name, (before, after) in told.items() if before != after]


def _flat(options: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    if isinstance(options, Mapping) and options:
        for key, value in options.items():
            part = "" if key == "init_args" else f".{key}"
            yield from _flat(value, f"{name}{part}".lstrip("."))
    elif isinstance(options, list) and any(isinstance(item, Mapping) for item in options):
        for number, item in enumerate(options):
            yield from _flat(item, f"{name}[{number}]")
    else:
        yield name, options


def _told(value: Any) -> str:  # noqa: ANN401
    return "not set" if value is None else str(value)
