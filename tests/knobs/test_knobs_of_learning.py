"""Every option of the callbacks that a policy learns by changes something."""

from __future__ import annotations

import pytest

from .turned.learning import LEARNING
from .turned.turning import Bench, choices_of


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(None, tmp_path_factory.mktemp("learning"))


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind, knobs in LEARNING.items() for option in knobs.turns]
)
def test_an_option_changes_something(bench: Bench, kind: type, option: str) -> None:
    bench.check(kind.__name__, LEARNING[kind], option)


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind in LEARNING for option in choices_of(kind)])
def test_no_two_choices_are_the_same(bench: Bench, kind: type, option: str) -> None:
    bench.check_choices(kind.__name__, LEARNING[kind], option, choices_of(kind)[option])
