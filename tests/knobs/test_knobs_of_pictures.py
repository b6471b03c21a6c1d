"""Every option of the image modules and their callbacks changes something."""

from __future__ import annotations

import pytest

from .table.pictures import PICTURES, material
from .table.turning import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("pictures")
    return Bench(material(folder), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind, knobs in PICTURES.items() for option in knobs.turns]
)
def test_an_option_changes_something(bench: Bench, kind: type, option: str) -> None:
    bench.check(kind.__name__, PICTURES[kind], option)
