"""Odd programs that are right: all kinds of values. All of them pass."""

from __future__ import annotations

from .right_classes import right

VALUES = (
    right(
        "all kinds of values",
        "def same(x): return x\n",
        """
        VALUES = [
            None, True, False, 0, -1, 2.5, 1e300, 3j, 10**40, -10**40, "ü€😀", "", "\\ud800", b"\\0\\xff", bytearray(2),
            (), (1,), [[]], {}, {1: "a"}, {(1, 2): {3}}, {frozenset({1}): None}, set(), frozenset({2}), range(2, 9, 3),
            [(None, {"a": [1]})],
        ]
        for value in VALUES:
            got = same(value)
            assert got == value and type(got) is type(value), (got, value)
        """,
    ),
    right(
        "infinities and nan",
        "def extremes(): return [float('inf'), float('-inf'), float('nan'), -0.0]\n",
        """
        import math
        a, b, c, d = extremes()
        assert a == math.inf and b == -math.inf and math.isnan(c)
        assert math.copysign(1, d) == -1
        """,
    ),
    right(
        "huge int",
        """
        import math
        def big(n): return math.factorial(n)
        """,
        """
        import math
        assert big(5000) == math.factorial(5000)
        """,
    ),
    right(
        "counter compared with a dict",
        """
        import collections
        def count(s): return collections.Counter(s)
        """,
        "assert count('aab') == {'a': 2, 'b': 1}\n",
    ),
    right(
        "default and ordered dicts",
        """
        import collections
        def table():
            d = collections.defaultdict(list)
            d['a'].append(1)
            return [d, collections.OrderedDict(b=2)]
        """,
        "assert table() == [{'a': [1]}, {'b': 2}]\n",
    ),
    right(
        "iterators",
        """
        def evens(n):
            for i in range(n): yield 2 * i
        def flipped(x): return reversed(x)
        def mapped(x): return map(str, x)
        """,
        """
        assert list(evens(3)) == [0, 2, 4]
        assert list(flipped([1, 2])) == [2, 1]
        assert next(evens(1)) == 0
        assert ''.join(mapped([1, 2])) == '12'
        assert sum(evens(4)) == 12
        """,
    ),
    right(
        "views of a dict",
        """
        def keys(d): return sorted(d.keys())
        def items(d): return list(d.items())
        """,
        """
        assert keys({'b': 1, 'a': 2}) == ['a', 'b']
        assert items({1: 2}) == [(1, 2)]
        """,
    ),
    right("unicode names", "def größe(x): return len(x)\n", "assert größe('abc') == 3\n"),
    right(
        "values and functions",
        """
        LIMIT = 42
        TABLE = {'a': [1, 2]}
        def f(): return LIMIT
        """,
        """
        assert LIMIT == f() == 42
        assert TABLE['a'][1] == 2
        """,
    ),
    right("long list", "def numbers(n): return list(range(n))\n", "assert numbers(100_000) == list(range(100_000))\n"),
)


VIEWS = (
    right(
        "views of a dict as answers",
        """
        def keys(d): return d.keys()
        def values(d): return d.values()
        def items(d): return d.items()
        """,
        """
        table = {"b": 1, "a": 2}
        assert keys(table) == {"a", "b"} and sorted(keys(table)) == ["a", "b"] and len(keys(table)) == 2
        assert list(values(table)) == [1, 2] and sum(values(table)) == 3
        assert list(items(table)) == [("b", 1), ("a", 2)] and dict(items(table)) == table
        """,
    ),
    right(
        "builder that returns itself",
        """
        class Text:
            def __init__(self): self.parts = []
            def add(self, part):
                self.parts.append(part)
                return self
            def text(self): return "".join(self.parts)
        """,
        "assert Text().add('a').add('b').text() == 'ab'\n",
    ),
    right(
        "attribute set by the test",
        """
        class Account:
            def __init__(self): self.limit = 1
            def twice(self): return 2 * self.limit
        """,
        "account = Account()\naccount.limit = 21\nassert account.twice() == 42\nassert account.limit == 21\n",
    ),
)

RIGHT_VALUES = (*VALUES, *VIEWS)
