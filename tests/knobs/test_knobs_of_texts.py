"""Every option of the text modules, of rewards and of what looks at programs changes something."""

from __future__ import annotations

import pytest

from .turned.programs import CANDIDATES, PROGRAMS
from .turned.texts import TEXTS
from .turned.turning import Bench, choices_of
from .turned.words import material

ALL = TEXTS | PROGRAMS


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(material(tmp_path_factory.mktemp("words")), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind, knobs in ALL.items() for option in knobs.turns])
def test_an_option_changes_something(bench: Bench, kind: type, option: str) -> None:
    bench.check(kind.__name__, ALL[kind], option)


def test_a_filter_that_chooses_goes_by_its_candidates(bench: Bench) -> None:
    bench.check("Filtration", CANDIDATES, "candidates")


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind in ALL for option in choices_of(kind) if option != "isolation"]
)
def test_no_two_choices_are_the_same(bench: Bench, kind: type, option: str) -> None:
    bench.check_choices(kind.__name__, ALL[kind], option, choices_of(kind)[option])
