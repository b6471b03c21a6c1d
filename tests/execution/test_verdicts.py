"""One verdict for each way a program can end."""

from collections.abc import Iterator

import pytest

from tamis.execution import Limits, Program, Sandbox, Status
from tamis.execution.levels import Isolation
from tamis.execution.worker import decide

LIMITS = Limits(cpu_s=0.6, wall_s=3.0, memory_mb=256, source_kb=4, reply_mb=1)
CHECK = "assert double(2) == 4\nassert double(-1) == -2"
NODE = "class Node:\n  def __init__(self, value, next=None): self.value, self.next = value, next\n"


@pytest.fixture(scope="module", params=["process", "seccomp"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tamis.execution.sandbox.warnings.warn", lambda *_, **__: None)  # of the level process
        opened = Sandbox(workers=1, isolation=request.param, limits=LIMITS)
    with opened:
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
        ("x = [1, (2.5, None)]", "assert x == [1, (2.5, None)]", "passed", ""),
        ("def double(x) return", CHECK, "error", "SyntaxError: expected ':' (line 1 of the program)"),
        (
            "\ndef double(x):\n  return x / 0",
            CHECK,
            "error",
            "ZeroDivisionError: division by zero (line 3 of the program)",
        ),
        ("assert False", CHECK, "error", "AssertionError: assert False (line 1 of the program)"),
        ("def double(x): assert x != 2", CHECK, "error", "AssertionError: def double(x): assert x != 2 (line 1 of the"),
        ("pass", CHECK, "error", "NameError: name 'double' is not defined (line 1 of the test)"),
        ("def f(): f()", "f()", "error", "RecursionError"),
        ("import sys; sys.exit(0)", CHECK, "error", "SystemExit: 0"),
        ("import sys\ndef double(x): sys.exit(0)", CHECK, "error", "SystemExit: 0"),
        ("x = '\ud800'", CHECK, "error", "UnicodeEncodeError"),
        ("x = 1\0", CHECK, "error", "SyntaxError"),
        ("while True: pass", CHECK, "timeout", "over 0.6 s of CPU time"),
        (
            "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
            CHECK,
            "timeout",
            "over 0.6 s of CPU",
        ),
        ("import time; time.sleep(60)", CHECK, "timeout", "over 3 s of wall time"),
        ("while True: print('x' * 100_000)", CHECK, "timeout", "over 0.6 s of CPU time"),
        ("x = bytearray(1 << 30)", CHECK, "memory", "MemoryError"),
        ("x = []\nwhile True: x.append('a' * 5000 + str(len(x)))", CHECK, "memory", "MemoryError"),
        ("import os; os._exit(0)", CHECK, "crashed", "ended without an answer (exit code 0)"),
        ("import os\ndef double(x): os._exit(3)", CHECK, "crashed", "ended without an answer (exit code 3)"),
        ("import ctypes; ctypes.string_at(0)", CHECK, "crashed", "ended without an answer (signal SIGSEGV)"),
        ("import os, time; os.close(3); time.sleep(60)", CHECK, "crashed", "hung up on the test"),
        ("import os; os.write(3, b'\\0\\0\\0\\1x'); os._exit(0)", CHECK, "crashed", "a malformed answer: not JSON"),
        ("import os; os.write(3, b'\\xff' * 4); os._exit(0)", CHECK, "crashed", "a malformed answer: a message of 429"),
        ("def double(x): return object()", CHECK, "unsupported", "the answer is an object of type object, which is"),
        ("def double(x): return [0] * 400_000", CHECK, "unsupported", "the answer is 12000"),
        ("x = 1", "pass", "failed", "the test ended without asking the program anything"),
        ("def f(g): return 1", "assert f(lambda: 1) == 1", "unsupported", "the test passes a value of type function"),
        ("def double(x): return input()", CHECK, "error", "EOFError"),
        ("x = 0  # " + "long " * 1000, CHECK, "error", "the source has 5009 bytes, over the limit of 4 KiB"),
    ],
)
def test_verdict(sandbox: Sandbox, source: str, test: str, status: str, detail: str) -> None:
    verdict = sandbox.run(Program(source, test))
    assert (verdict.status, verdict.detail[: len(detail)]) == (status, detail)
    assert verdict.passed is (status == "passed")
    assert verdict.level == sandbox.level


@pytest.mark.parametrize(
    ("source", "test"),
    [
        ("def f(*a, **k): return a, k", "assert f(1, (2,), z={3}) == ((1, (2,)), {'z': {3}})"),
        ("import collections\ndef f(x): return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("def f(n):\n  for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x): return lambda y: x + y", "assert f(1)(2) == 3"),
        ("n = 0\ndef f():\n  global n\n  n += 1\n  return n", "assert [f(), f(), f()] == [1, 2, 3]"),
        ("def f(): raise KeyError('k', 1)", "try:\n  f()\n  assert False\nexcept KeyError as e:\n"
         "  assert e.args == ('k', 1)"),
        ("class Odd(ValueError): pass\ndef f(): raise Odd('x')", "try:\n  f()\nexcept ValueError as e:\n  x = str(e)\n"
         "assert 'x' in x"),
        ("class Stack:\n  def __init__(self): self.items = []\n  def push(self, x): self.items.append(x)\n"
         "  def pop(self): return self.items.pop()", "s = Stack()\ns.push(1); s.push(2)\nassert s.pop() == 2\n"
         "assert s.items == [1]\nassert s.pop() == 1"),
        ("class P:\n  def __init__(self, x): self.x = x\ndef total(ps): return sum(p.x for p in ps)",
         "assert total([P(1), P(2)]) == 3"),
        ("def make(x): return {'object': object(), 'x': x}\ndef read(d): return d['x']",
         "d = make(7)\nassert read(d) == 7"),
        ("class N:\n  def __init__(self, v): self.v, self.next = v, None\ndef second(n): return n.next.v",
         "a, b = N(1), N(2)\na.next = b\na.v = [3]\nassert second(a) == 2 and a.v == [3]"),
        ("class S:\n  @staticmethod\n  def f(x): return -x", "assert S.f(1) == -1 and S().f(2) == -2"),
    ],
)  # fmt: skip
def test_what_a_test_may_do_with_answers(sandbox: Sandbox, source: str, test: str) -> None:
    verdict = sandbox.run(Program(source, test))
    assert verdict.passed, verdict.detail


@pytest.mark.parametrize(
    ("source", "test"),
    [
        ("class A:\n  def startswith(self, x): return True\ndef f(): return A()", "assert f().startswith('secret')"),
        ("class f:\n  def startswith(self, x): return True", "assert f().startswith('secret')"),
        ("class A:\n  def lower(self): return 'a'\nclass S:\n  def f(self): return A()",
         "assert S().f().lower() == 'a'"),
        ("class A:\n  def __bool__(self): return True\ndef f(): return A()", "assert f()"),
        ("class A:\n  def __eq__(self, x): return True\ndef f(): return A()", "assert 3 == f()"),
        ("class A:\n  def __str__(self): return 'a'\ndef f(): return A()", "assert str(f()) == 'a'"),
        ("class A:\n  def __call__(self): return 1\ndef f(): return A()", "assert f()() == 1 and f().x == 1"),
    ],
)  # fmt: skip
def test_no_method_of_an_answer_decides(sandbox: Sandbox, source: str, test: str) -> None:
    assert sandbox.run(Program(source, test)).status is Status.UNSUPPORTED


@pytest.mark.parametrize(
    "test", ["assert abs(1 - f()) < 1", "assert list(f()) == [1]", "assert isinstance(f(), Sized)",
             "assert len(f()) == 1", "assert f()[0] == 1", "f()()", "with f(): pass"]
)  # fmt: skip
def test_nothing_else_can_be_done_with_an_answer(sandbox: Sandbox, test: str) -> None:
    source = (
        "class A:\n  def __abs__(self): return 0\n  __len__ = __abs__\n  def __rsub__(self, x): return self\n"
        "  def __iter__(self): return iter([1])\n  def __getitem__(self, i): return 1\ndef f(): return A()"
    )
    prelude = "from collections.abc import Sized"
    assert sandbox.run(Program(source, test, prelude)).status in (Status.ERROR, Status.FAILED)


def test_what_a_test_swallows_still_counts(sandbox: Sandbox) -> None:
    test = "try:\n  f()\nexcept BaseException: pass\ntry:\n  f()\nexcept: pass"
    assert sandbox.run(Program("def f(): return object", test)).passed  # nobody looked at what it is
    assert sandbox.run(Program("import os\ndef f(): os._exit(0)", test)).status is Status.CRASHED
    assert sandbox.run(Program("import os\ndef f(): os._exit(0)", f"{test}\nassert False")).status is Status.CRASHED
    test = "try:\n  x = f() == 1\nexcept BaseException: pass"
    assert sandbox.run(Program("def f(): return object()", test)).status is Status.UNSUPPORTED


def test_only_the_names_asked_for_reach_the_test(sandbox: Sandbox) -> None:
    source = "def f(x): return x + 1\ndef abs(x): return 0\ndef help(): return 0"
    test = "assert abs(f(1) - 3) < 1e-6\nassert help() == 1"
    verdict = sandbox.run(Program(source, test, prelude="def help(): return 1"))
    assert verdict.detail == "AssertionError: assert abs(f(1) - 3) < 1e-6 (line 1 of the test)"
    named = Program(source, "assert f(1) == 2 and help() == 0", prelude="def help(): return 1", names=("f", "help"))
    assert sandbox.run(named).passed
    assert sandbox.run(Program("def sum(a, b): return a * b", "assert sum(2, 3) == 6", names=("sum",))).passed


def test_names_that_nobody_asked_for_are_not_bound(sandbox: Sandbox) -> None:
    source = """
import sys
answering = sys._getframe(1).f_locals["self"]
dump = answering.encoder.dump
answering.encoder.dump = lambda value: dump({**value, "abs": nothing} if type(value) is dict else value)
def nothing(x): return 0.0
def f(x): return 99
"""
    verdict = sandbox.run(Program(source, "assert abs(f(1) - 3) < 1e-6"))
    assert verdict.detail == "AssertionError: assert abs(f(1) - 3) < 1e-6 (line 1 of the test)"


def test_shapes_cross_attribute_by_attribute(sandbox: Sandbox) -> None:
    source = f"{NODE}def twice(n):\n  m = n\n  while m:\n    m.value *= 2\n    m = m.next\n  return n"
    test = (
        "head = None\nfor i in range(3000): head = Node(i, head)\ngot = twice(head)\nassert type(got) is Node\n"
        "for i in reversed(range(3000)):\n  assert got.value == 2 * i\n  got = got.next\nassert got is None"
    )
    program = Program(source, test, prelude=NODE, names=("twice",), shapes=("Node",))
    assert sandbox.run(program).passed
    ring = "a = Node(1)\na.next = Node(2, a)\nb = same(a)\nassert b.next.next is b and b.next.value == 2"
    assert sandbox.run(Program(NODE + "def same(n): return n", ring, NODE, ("same",), (), ("Node",))).passed


@pytest.mark.parametrize(
    "body",
    [
        "import os; return dict(os.environ) == {}",
        "return __name__ != '__main__'",
        "import sys; return sys.stdin.read() == ''",
        "import sys; return 'site' not in sys.modules and not any('tamis' in m for m in sys.modules)",
        "import gc; return gc.isenabled()",
        "return hash('tamis') == hash('ta' + 'mis') and list({'b', 'a', 'c'}) == list({'b', 'a', 'c'})",
        "import os; return [n for n in range(40) if is_open(os, n)] == [0, 1, 2, 3]",
    ],
)
def test_surroundings(sandbox: Sandbox, body: str) -> None:
    helper = "def is_open(os, n):\n  try: os.get_inheritable(n)\n  except OSError: return False\n  return True\n"
    verdict = sandbox.run(Program(f"{helper}def f():\n  {body}", "assert f() is True"))
    assert verdict.status is Status.PASSED, verdict.detail


def test_dataclass_with_string_annotations(sandbox: Sandbox) -> None:
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\n"
    assert sandbox.run(Program(source + "def f(): return A(1) == A(1)", "assert f()")).passed


def test_order_of_sets_and_unseeded_draws_are_the_same_in_every_worker() -> None:
    source = "import random\ndef f(): raise ValueError(list({'one', 'two', 'three'}), random.random())"
    details = set()
    for _ in range(3):
        with Sandbox(workers=1, isolation="seccomp") as fresh:
            details.add(fresh.run(Program(source, "f()")).detail)
    assert len(details) == 1


def test_cpu_time_is_measured(sandbox: Sandbox) -> None:
    source = "import time\ndef f():\n  while time.process_time() < 0.1: pass"
    verdict = sandbox.run(Program(source, "assert f() is None"))
    assert 0.09 < verdict.cpu_s < 0.2
    assert verdict.wall_s >= 0.09
    assert verdict.calls == 1


@pytest.mark.parametrize(
    ("report", "status", "detail"),
    [
        ({"reason": "ended", "code": -40}, "crashed", "ended without an answer (signal 40)"),  # it has no name
        ({"reason": "ended", "code": -9, "peak_mb": 820.0}, "memory", "ended without an answer at 820 MiB"),
        ({"reason": "ended", "code": -9, "peak_mb": 810.0}, "crashed", "ended without an answer (signal SIGKILL)"),
        ({"reason": "ended", "code": -24, "cpu_s": 3.0}, "timeout", "over 3 s of CPU time"),
        ({"reason": "wall", "code": -9}, "timeout", "over 30 s of wall time"),
    ],
)
def test_how_a_candidate_ended_decides_when_it_left_the_test_alone(
    report: dict[str, object], status: str, detail: str
) -> None:
    outcome = {"status": "crashed", "detail": ""}
    assert decide(outcome, {"cpu_s": 0.0, "peak_mb": 9.0, **report}, Limits()) == (status, detail)


@pytest.mark.parametrize("isolation", ["auto", "seccomp"])
def test_a_test_that_loops_is_ended(isolation: Isolation) -> None:
    looping = Program("def f(): return 1", "f()\nwhile True: pass")
    sleeping = Program("def f(): return 1", "import time\nf()\ntime.sleep(60)")
    with Sandbox(workers=1, isolation=isolation, limits=Limits(cpu_s=0.2, wall_s=2.0)) as sandbox:
        verdicts = sandbox.run_many([looping, sleeping, Program("def f(): return 1", "assert f() == 1")])
    assert [(verdict.status, verdict.detail) for verdict in verdicts] == [
        ("timeout", "over 0.4 s of CPU time in the test"),
        ("timeout", "over 2 s of wall time in the test"),
        ("passed", ""),
    ]


@pytest.mark.parametrize("values", [{"cpu_s": 0.0}, {"memory_mb": -1}])
def test_limits_must_be_above_zero(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Limits(**values)  # type: ignore[arg-type]
