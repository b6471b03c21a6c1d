"""Every option of the datamodules changes something."""

from __future__ import annotations

import pytest

from .turned.data import DATA, material
from .turned.turning import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(material(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind, knobs in DATA.items() for option in knobs.turns])
def test_an_option_changes_something(bench: Bench, kind: type, option: str) -> None:
    bench.check(kind.__name__, DATA[kind], option)
