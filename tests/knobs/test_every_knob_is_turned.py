"""No option escapes: every class that a config can name is in the tables, with every parameter of its constructor."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from lightning.pytorch import Trainer

from tamis import callbacks, datamodules, modules
from tamis.callbacks import Filtration
from tamis.cli import TamisCLI
from tamis.modules import Reward

from .turned.data import DATA
from .turned.learning import LEARNING
from .turned.pictures import PICTURES
from .turned.programs import CANDIDATES, PROGRAMS
from .turned.texts import TEXTS
from .turned.turning import Knobs

TABLES: dict[type, Knobs] = LEARNING | PICTURES | DATA | TEXTS | PROGRAMS
TURNED = {
    kind.__name__: {*knobs.turns, *(CANDIDATES.turns if kind is Filtration else ())} for kind, knobs in TABLES.items()
}
CONFIGS = Path(__file__).parents[2] / "configs"
#: No config can name these: they are there to be built on, or are what a method returns.
NO_OPTIONS = {"PolicyModule", "PolicyCallback", "PolicyUpdate", "Reward", "ActionEvaluation"}
#: What ``tamis`` adds to Lightning's keys, and the test of each.
KEYS = {
    "run_dir": "test_cli.py::test_a_run_directory_is_never_reused",
    "resume": "test_precedence.py::test_resume_takes_the_newest_whole_one",
    "checkpoint": "test_precedence.py::test_another_problem_is_refused_unless_asked_for",
    "filter": "test_cli.py::test_short_names_and_single_flags",
    "update": "test_cli.py::test_the_update_is_exchanged_by_one_flag",
}


def _named() -> list[type]:
    """The classes of the three packages."""
    found = {name: getattr(package, name) for package in (modules, datamodules, callbacks) for name in package.__all__}
    return [kind for name, kind in found.items() if not issubclass(kind, Exception) and name not in NO_OPTIONS]


def _parts(hint: Any) -> Iterator[type]:
    """The classes in a type hint."""
    for part in typing.get_args(hint):
        yield from _parts(part)
    if isinstance(hint, type):
        yield hint


def _nested(kind: type) -> set[type]:
    """Classes of options inside the options of a class."""
    hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    return {part for hint in hints.values() for part in _parts(hint) if dataclasses.is_dataclass(part)}


def _options(kind: type) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]


@pytest.mark.parametrize("kind", _named(), ids=lambda kind: kind.__name__)
def test_every_option_is_turned(kind: type) -> None:
    assert sorted(TURNED.get(kind.__name__, ())) == sorted(_options(kind)), (
        f"tests/knobs/turned has not these options of {kind.__name__}"
    )


def test_options_inside_options_are_turned() -> None:
    nested = {part for kind in _named() for part in _nested(kind)}
    assert {part.__name__ for part in nested} == {"Limits", "NoiseAugmentation", "ClassBalance"}
    for part in nested:
        assert sorted(TABLES[part].turns) == sorted(_options(part))


def test_every_class_in_the_tables_can_be_named() -> None:
    nested = {part for kind in _named() for part in _nested(kind)}
    assert set(TABLES) - set(_named()) - nested == set()
    assert {kind for kind in _named() if issubclass(kind, Reward)} <= set(TABLES)


def _keys(config: Any, above: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Class and option of every key below a ``class_path`` of ours."""
    if isinstance(config, list):
        for entry in config:
            yield from _keys(entry, above)
    if not isinstance(config, dict):
        return
    path = str(config.get("class_path", ""))
    for name, value in config.items():
        yield from _keys(value, above)
        if name == "init_args" and (path.startswith("tamis.") or "." not in path):
            for option in value:
                yield path.rsplit(".", 1)[-1], option


class _ParserMadeError(Exception):
    """Stops the command line where its parser is ready."""


class _ParserOnly(TamisCLI):
    def parse_arguments(self, parser: Any, args: Any) -> NoReturn:
        raise _ParserMadeError(parser)


@pytest.fixture(scope="module")
def parser() -> Any:
    """The command line's own."""
    with pytest.raises(_ParserMadeError) as made:
        _ParserOnly(["fit"])
    return made.value.args[0]


@pytest.mark.parametrize("name", ["pf_ppo_auto", "phantoms_noise_mask", "dpo"])
def test_no_key_of_a_resolved_config_escapes(parser: Any, name: str) -> None:
    """What ``--print_config`` prints has Lightning's keys, the command line's own, and options that are turned."""
    parsed = parser.parse_args(["fit", f"--config={CONFIGS}/quickstart/{name}.yaml"])
    resolved = yaml.safe_load(parser.dump(parsed, skip_unset=False))["fit"]
    lightning = {"seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only"}
    assert set(resolved) - lightning == KEYS.keys()
    assert set(resolved["trainer"]) == set(inspect.signature(Trainer).parameters)
    assert set(resolved["checkpoint"]) == TURNED["RunCheckpoints"]
    found = list(_keys(resolved))
    assert len(found) > 15
    for kind, option in found:
        assert option in TURNED[kind], f"{kind}.{option} is in no table of tests/knobs"


def test_no_key_of_any_config_escapes() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        for kind, option in _keys(yaml.safe_load(path.read_text())):
            assert option in TURNED[kind], f"{path}: {kind}.{option} is in no table of tests/knobs"


def test_the_command_lines_own_keys_have_tests() -> None:
    for test in KEYS.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text()
