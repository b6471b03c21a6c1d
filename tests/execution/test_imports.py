"""What a program names is loaded before it runs."""

import subprocess
import sys

import pytest

from tamis.execution import Program, Sandbox, imports
from tamis.execution.guest.candidate_server import PRELOAD
from tamis.execution.imports import LATER, ON_DEMAND, named_modules


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import math, asyncio as a, uuid", {"asyncio", "uuid", "concurrent.futures.thread"}),
        ("def f():\n\timport pickle # and csv\n\treturn pickle", {"pickle"}),
        ("from xml.etree import ElementTree as T", {"xml.etree.ElementTree"}),
        ("from concurrent.futures import ThreadPoolExecutor", {"concurrent.futures", "concurrent.futures.thread"}),
        ("from concurrent import futures", {"concurrent.futures", "concurrent.futures.thread"}),
        ("import unittest.mock; import html", {"unittest.mock"}),  # one statement a line, as programs are written
        ("x = 'import uuid'\nimportant = uuid\nimport antigravity, this, numpy, os.path", set()),
        ("def broken(:\nimport zlib", {"zlib"}),
        ("", set()),
    ],
)
def test_named_modules(source: str, names: set[str]) -> None:
    assert named_modules(source) == names


def test_a_hostile_text_is_read_in_no_time() -> None:
    assert named_modules("import " + "a." * 100_000 + "\n" + "from " * 50_000) == frozenset()


def test_every_module_on_demand_is_one_and_not_loaded_anyway() -> None:
    wanted = sorted(ON_DEMAND.union(*LATER.values()))
    imports = f"import sys\nfor name in {PRELOAD.split()}: __import__(name)\nbefore = set(sys.modules)\n"
    code = f"{imports}print([n for n in {wanted} if n in before])\nfor name in {wanted}: __import__(name)"
    run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_a_worker_loads_them_once() -> None:
    tell = "import sys\ndef f(): return 'uuid' in sys.modules, 'csv' in sys.modules\n"
    with Sandbox(workers=1, isolation="seccomp") as sandbox:
        asked = Program(f"import uuid\n{tell}", "assert f() == (True, False)")
        both = Program(f"import csv\n{tell}", "assert f() == (True, True)")
        assert [verdict.detail for verdict in sandbox.run_many([asked, both])] == ["", ""]
        assert sandbox.run(Program("import numpy", "f()")).detail.startswith(
            "ModuleNotFoundError: No module named 'nump"
        )


def test_a_module_that_this_python_lacks_costs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "ON_DEMAND", ON_DEMAND | {"no_such_module"})
    right = Program("def f(): return 1", "assert f() == 1")
    with Sandbox(workers=1, isolation="seccomp") as sandbox:
        assert sandbox.run(Program("import no_such_module", "f()")).detail.startswith("ModuleNotFoundError")
        assert sandbox.run(right).passed
