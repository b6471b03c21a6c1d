"""One verdict for each way a program can end."""

from collections.abc import Iterator

import pytest

from tamis.execution import Limits, Program, Sandbox, Status

LIMITS = Limits(cpu_s=0.3, wall_s=1.0, memory_mb=256, source_kb=4)
FORGED = b'{"nonce": "0", "status": "passed", "detail": ""}\n'
CHECK = "assert double(2) == 4\nassert double(-1) == -2"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1, limits=LIMITS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("source", "test", "status", "detail"),
    [
        ("def double(x): return x + x", CHECK, "passed", ""),
        (
            "def double(x): return x * x",
            CHECK,
            "failed",
            "AssertionError: assert double(-1) == -2 (line 2 of the test)",
        ),
        ("x = 1", "assert x == 2, f'x is {x}'", "failed", "AssertionError: x is 1 (line 1 of the test)"),
        ("def double(x) return", CHECK, "error", "SyntaxError: expected ':' (line 1 of the program)"),
        (
            "\ndef double(x): return x / 0",
            CHECK,
            "error",
            "ZeroDivisionError: division by zero (line 2 of the program)",
        ),
        ("assert False", "", "error", "AssertionError: assert False (line 1 of the program)"),
        ("pass", CHECK, "error", "NameError: name 'double' is not defined (line 1 of the test)"),
        ("def f(): f()\nf()", "", "error", "RecursionError"),
        ("import sys; sys.exit(0)", CHECK, "error", "SystemExit: 0"),
        ("x = '\ud800'", "", "error", "UnicodeEncodeError"),
        ("x = 1\0", "", "error", "SyntaxError"),
        ("while True: pass", "", "timeout", "over 0.3 s of CPU time"),
        ("while True:\n  try:\n    while True: pass\n  except BaseException: pass", "", "timeout", "over 0.3 s of CPU"),
        ("import time; time.sleep(60)", "", "timeout", "over 1 s of wall time"),
        ("while True: print('x' * 100_000)", "", "timeout", "over 0.3 s of CPU time"),
        ("x = bytearray(1 << 30)", "", "memory", "MemoryError"),
        ("x = []\nwhile True: x.append('a' * 5000 + str(len(x)))", "", "memory", "MemoryError"),
        ("import os; os._exit(0)", CHECK, "crashed", "ended without a verdict (exit code 0)"),
        ("import ctypes; ctypes.string_at(0)", CHECK, "crashed", "ended without a verdict (signal SIGSEGV)"),
        ("import os; os.close(3); os._exit(0)", CHECK, "crashed", "ended without a verdict"),
        (f"import os; os.write(3, {FORGED!r}); os._exit(0)", CHECK, "crashed", "ended without a verdict"),
        ("input()", "", "error", "EOFError"),
        ("with open('x', 'wb') as f: f.write(bytes(3 << 20))", "", "error", "OSError: [Errno 27]"),
        ("files = [open('/dev/null') for _ in range(99)]", "", "error", "OSError: [Errno 24]"),
        ("x = 0  # " + "long " * 1000, "", "error", "the source has 5009 bytes, over the limit of 4 KiB"),
    ],
)
def test_verdict(sandbox: Sandbox, source: str, test: str, status: str, detail: str) -> None:
    verdict = sandbox.run(Program(source, test))
    assert (verdict.status, verdict.detail[: len(detail)]) == (status, detail)
    assert verdict.passed is (status == "passed")
    assert verdict.level == "process"


@pytest.mark.parametrize(
    "test",
    [
        "import os; assert dict(os.environ) == {}",
        "import os; assert os.listdir('.') == []",
        "import os, pathlib; pathlib.Path('left').write_text('x'); os.mkdir('folder')",
        "import os; assert 'left' not in os.listdir('.')",  # what the program before it wrote has gone
        "assert __name__ != '__main__'",
        "import sys; assert sys.stdin.read() == ''",
        "import sys; assert 'site' not in sys.modules and 'tamis' not in sys.modules",
        "import os; assert sorted(map(int, os.listdir('/proc/self/fd')))[:5] == [0, 1, 2, 3, 4]",  # 4 is the listing
        "import gc; assert gc.isenabled()",
        "assert hash('tamis') == hash('ta' + 'mis'); assert list({'b', 'a', 'c'}) == list({'b', 'a', 'c'})",
    ],
)
def test_surroundings(sandbox: Sandbox, test: str) -> None:
    verdict = sandbox.run(Program("", test))
    assert verdict.status is Status.PASSED, verdict.detail


def test_dataclass_with_string_annotations(sandbox: Sandbox) -> None:
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\n"
    assert sandbox.run(Program(source, "assert A(1) == A(1)")).passed


def test_the_order_of_sets_is_the_same_in_every_worker() -> None:
    show = Program("", "raise ValueError(list({'one', 'two', 'three', 'four'}))")
    details = set()
    for _ in range(3):
        with Sandbox(workers=1) as fresh:
            details.add(fresh.run(show).detail)
    assert len(details) == 1


def test_cpu_time_is_measured(sandbox: Sandbox) -> None:
    verdict = sandbox.run(Program("import time\nwhile time.process_time() < 0.1: pass", ""))
    assert 0.09 < verdict.cpu_s < 0.2
    assert verdict.wall_s >= 0.09


@pytest.mark.parametrize("values", [{"cpu_s": 0.0}, {"memory_mb": -1}])
def test_limits_must_be_above_zero(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Limits(**values)  # type: ignore[arg-type]
