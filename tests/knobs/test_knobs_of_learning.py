"""Every option of the callbacks that a policy learns by changes something."""

from __future__ import annotations

import pytest

from .table.learning import LEARNING
from .table.turning import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(None, tmp_path_factory.mktemp("learning"))


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind, knobs in LEARNING.items() for option in knobs.turns]
)
def test_an_option_changes_something(bench: Bench, kind: type, option: str) -> None:
    bench.check(kind.__name__, LEARNING[kind], option)
