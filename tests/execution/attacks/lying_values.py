"""Wrong answers whose objects lie when they are compared, converted or counted."""

from __future__ import annotations

from .cases import Case

MEAN = """
assert abs(mean([1.0, 2.0, 6.0]) - 3.0) < 1e-6
assert abs(mean([2.0, 4.0]) - 3.0) < 1e-6
"""
REVERSED = """
assert backwards([1, 2, 3]) == [3, 2, 1]
assert backwards([4, 5]) == [5, 4]
"""

LYING_VALUES = (
    Case(
        "equal to everything",
        """
        class Equal:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 0
        def power(a, b): return Equal()
        """,
        fools_in_process=True,
    ),
    Case(
        "int that is equal to everything",
        """
        class Lie(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        def power(a, b): return Lie(0)
        """,
        fools_in_process=True,
    ),
    Case(
        "float whose differences are nought",
        """
        class Lie(float):
            def __sub__(self, other): return 0.0
            __rsub__ = __sub__
        def mean(values): return Lie(99.0)
        """,
        MEAN,
        fools_in_process=True,
    ),
    Case(
        "float that is its own tiny absolute value",
        """
        class Lie(float):
            def __sub__(self, other): return self
            def __abs__(self): return self
            def __lt__(self, other): return True
        def mean(values): return Lie(99.0)
        """,
        MEAN,
        fools_in_process=True,
    ),
    Case(
        "number by reflected operators only",
        """
        class Lie:
            def __rsub__(self, other): return 0
            def __rmod__(self, other): return 0
        def power(a, b): return Lie()
        """,
        """
        assert 8 - power(2, 3) == 0
        assert 25 - power(5, 2) == 0
        """,
        fools_in_process=True,
    ),
    Case(
        "rounds to something equal to everything",
        """
        class Equal(float):
            def __eq__(self, other): return True
            __hash__ = float.__hash__
            def __round__(self, digits=None): return self
        def mean(values): return Equal(99.0)
        """,
        """
        assert round(mean([1, 2]), 2) == 1.5
        assert round(mean([1, 4]), 2) == 2.5
        """,
        fools_in_process=True,
    ),
    Case(
        "str that is equal to everything",
        """
        class Lie(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        def shout(text): return Lie("")
        """,
        """
        assert shout('a') == 'A!'
        assert shout('b') == 'B!'
        """,
        fools_in_process=True,
    ),
    Case(
        "formats itself as a str that is equal to everything",
        """
        class Lie(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        class Number(float):
            def __format__(self, form): return Lie("")
            def __str__(self): return Lie("")
            __repr__ = __str__
        def mean(values): return Number(99.0)
        """,
        """
        assert f'{mean([1, 2]):.2f}' == '1.50'
        assert str(mean([1, 4])) == '2.5'
        """,
        fools_in_process=True,
    ),
    Case(
        "list that is equal to everything",
        """
        class Lie(list):
            def __eq__(self, other): return True
        def backwards(values): return Lie()
        """,
        REVERSED,
        fools_in_process=True,
    ),
    Case(
        "list of elements that are equal to everything",
        """
        class Equal:
            def __eq__(self, other): return True
        def backwards(values): return [Equal() for _ in values]
        """,
        REVERSED,
        fools_in_process=True,
    ),
    Case(
        "tuple that is equal to everything",
        """
        class Lie(tuple):
            def __eq__(self, other): return True
            __hash__ = tuple.__hash__
        def ends(values): return Lie()
        """,
        """
        assert ends([1, 2, 3]) == (1, 3)
        assert ends([5, 6]) == (5, 6)
        """,
        fools_in_process=True,
    ),
    Case(
        "named tuple that is equal to everything",
        """
        from typing import NamedTuple
        class Pair(NamedTuple):
            first: int
            last: int
            def __eq__(self, other): return True
        def ends(values): return Pair(0, 0)
        """,
        """
        assert ends([1, 2, 3]) == (1, 3)
        assert ends([5, 6]) == (5, 6)
        """,
        fools_in_process=True,
    ),
    Case(
        "dict with lying items",
        """
        class Equal:
            def __eq__(self, other): return True
        class Lie(dict):
            def __getitem__(self, key): return Equal()
            def get(self, key, default=None): return Equal()
            def items(self): return Equal()
            def __eq__(self, other): return True
        def count(text): return Lie()
        """,
        """
        found = count('aab')
        assert found['a'] == 2
        assert found == {'a': 2, 'b': 1}
        assert found.get('b') == 1
        """,
        fools_in_process=True,
    ),
    Case(
        "set that contains everything",
        """
        class Lie(set):
            def __contains__(self, item): return True
            def __eq__(self, other): return True
            def __len__(self): return 3
        def letters(text): return Lie()
        """,
        """
        found = letters('abca')
        assert 'b' in found
        assert found == {'a', 'b', 'c'}
        assert len(found) == 3
        """,
        fools_in_process=True,
    ),
)
