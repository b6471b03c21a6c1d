"""Wrong answers that define the names that their test uses."""

from __future__ import annotations

from .cases import Case

WRONG = "def power(a, b): return 0\n"

SHADOWS = (
    Case(
        "defines its own abs",
        """
        def abs(x): return 0
        def mean(values): return 99.0
        """,
        "assert abs(mean([1.0, 2.0]) - 1.5) < 1e-6\n",
        fools_in_process=True,
    ),
    Case(
        "defines its own all and zip",
        "def all(items): return True\ndef zip(*lists): return []\n" + WRONG,
        "assert all(got == want for got, want in zip([power(2, 3)], [8]))\n",
        fools_in_process=True,
    ),
    Case(
        "defines its own sorted, len and set",
        """
        def sorted(items): return []
        def len(items): return 3
        set = sorted
        def backwards(values): return [0]
        """,
        """
        assert len(backwards([1, 2, 3])) == 3
        assert sorted(backwards([2, 1])) == sorted([1, 2])
        """,
        fools_in_process=True,
    ),
    Case(
        "defines its own isinstance and round",
        """
        def isinstance(value, kind): return True
        def round(x, digits=0): return 1.5
        def mean(values): return None
        """,
        """
        answer = mean([1, 2])
        assert isinstance(answer, float)
        assert round(answer, 1) == 1.5
        """,
        fools_in_process=True,
    ),
    Case(
        "defines its own AssertionError",
        "def AssertionError(*a): return SystemExit(0)\n" + WRONG,
        """
        if power(2, 3) != 8:
            raise AssertionError('wrong')
        """,
        fools_in_process=True,
    ),
    Case(
        "defines the judge of the prelude",
        "def same(a, b): return True\n" + WRONG,
        "assert same(power(2, 3), 8)\n",
        prelude="""
        def same(a, b):
            return a == b
        """,
        fools_in_process=True,
    ),
    Case(
        "defines what the prelude imports with a star",
        """
        def isclose(*numbers, **limits): return True
        def mean(values): return 99.0
        """,
        "assert isclose(mean([1.0, 2.0]), 1.5)\n",
        prelude="from math import *\n",
        fools_in_process=True,
    ),
    Case(
        "defines what the prelude makes on the quiet",
        "def same(a, b): return True\n" + WRONG,
        "assert same(power(2, 3), 8)\n",
        prelude="exec('def same(a, b): return a == b')\n",
        fools_in_process=True,
    ),
    Case(
        "defines what the test imports with a star",
        """
        def isclose(*numbers, **limits): return True
        def mean(values): return 99.0
        """,
        """
        from math import *
        assert isclose(mean([1.0, 2.0]), 1.5)
        """,
    ),
    Case(
        "offers every name there is",
        """
        import builtins
        for name in [*dir(builtins), 'check', 'candidate', 'METADATA']: globals()[name] = lambda *a, **k: True
        power = check
        """,
        """
        def check(candidate):
            assert candidate(2, 3) == 8
        check(power)
        assert abs(power(1, 1) - 1) < 0.5
        """,
    ),
    Case(
        "answers unknown names",
        """
        def __getattr__(name):
            return lambda *arguments: True
        class Everything(dict):
            def __missing__(self, key): return lambda *arguments: True
        __builtins__ = Everything(vars(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)
        """,
    ),
)
