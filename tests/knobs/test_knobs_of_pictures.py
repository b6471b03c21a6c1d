"""Every option of the image modules and their callbacks changes something."""

from __future__ import annotations

import pytest

from .turned.pictures import PICTURES, material
from .turned.turning import Bench, choices_of


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("pictures")
    return Bench(material(folder), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind, knobs in PICTURES.items() for option in knobs.turns]
)
def test_an_option_changes_something(bench: Bench, kind: type, option: str) -> None:
    bench.check(kind.__name__, PICTURES[kind], option)


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind in PICTURES for option in choices_of(kind)])
def test_no_two_choices_are_the_same(bench: Bench, kind: type, option: str) -> None:
    bench.check_choices(kind.__name__, PICTURES[kind], option, choices_of(kind)[option])
