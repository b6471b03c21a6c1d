"""Odd programs that are right: threads, classes and all kinds of values. All of them pass."""

from __future__ import annotations

import textwrap

from tamis.execution import Status

from .cases import Case


def right(name: str, source: str, test: str = "assert answer() == 42\n", **options: str) -> Case:
    """A case that must pass. Options: ``prelude``, and ``names`` and ``shapes`` as words."""
    names, shapes = (tuple(options.get(key, "").split()) for key in ("names", "shapes"))
    prelude = options.get("prelude", "")
    return Case(name, textwrap.dedent(source), test, prelude, names, shapes, ends=frozenset({Status.PASSED}))


CONCURRENT = (
    right(
        "threads",
        """
        import threading
        def answer():
            total, lock = [0], threading.Lock()
            def add():
                with lock: total[0] += 1
            threads = [threading.Thread(target=add) for _ in range(42)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            return total[0]
        """,
    ),
    right(
        "pool of threads",
        """
        from concurrent.futures import ThreadPoolExecutor
        def answer():
            with ThreadPoolExecutor(4) as pool: return sum(pool.map(lambda x: 2 * x, [1, 2, 18]))
        """,
    ),
    right(
        "daemon thread left running",
        """
        import threading, time
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        def answer(): return 42
        """,
    ),
    right(
        "asyncio",
        """
        import asyncio
        async def half(x):
            await asyncio.sleep(0.001)
            return x
        async def main():
            one, two = await asyncio.gather(half(20), half(20))
            queue = asyncio.Queue()
            await queue.put(1)
            return one + two + await queue.get() + await asyncio.to_thread(lambda: 1)
        def answer(): return asyncio.run(main())
        """,
    ),
    right(
        "alarm",
        """
        import signal, time
        def answer():
            rung = []
            signal.signal(signal.SIGALRM, lambda *a: rung.append(42))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while not rung: time.sleep(0.005)
            return rung[0]
        """,
    ),
    right(
        "queue and condition",
        """
        import queue, threading
        def answer():
            line = queue.Queue()
            threading.Thread(target=lambda: [line.put(n) for n in (40, 2)]).start()
            return line.get(timeout=5) + line.get(timeout=5)
        """,
    ),
    right(
        "context variables and a lock kept between calls",
        """
        import contextvars, threading
        VALUE = contextvars.ContextVar('value', default=41)
        LOCK = threading.RLock()
        def answer():
            with LOCK: VALUE.set(VALUE.get() + 1)
            return VALUE.get()
        """,
        """
        assert answer() == 42
        assert answer() == 43
        """,
    ),
)

CLASSES = (
    right(
        "class used by the test",
        """
        class Stack:
            def __init__(self, items=()): self.items = list(items)
            def push(self, item): self.items.append(item)
            def pop(self): return self.items.pop()
            @property
            def size(self): return len(self.items)
        """,
        """
        stack = Stack([1])
        stack.push((2, 3))
        assert stack.size == 2
        assert stack.pop() == (2, 3)
        assert Stack().size == 0
        assert stack.items == [1]
        """,
    ),
    right(
        "method of a fresh object",
        """
        class Solution:
            def f(self, x): return x + 1
        """,
        "assert Solution().f(41) == 42\n",
    ),
    right(
        "object passed back to the program",
        """
        class Box:
            def __init__(self, x): self.x = x
        def make(x): return Box(x)
        def look(box): return box.x
        """,
        """
        assert look(make(42)) == 42
        assert look(box=make([1])) == [1]
        """,
    ),
    right(
        "static and class methods",
        """
        class A:
            @staticmethod
            def f(x): return 2 * x
            @classmethod
            def g(cls, x): return cls.f(x)
        """,
        """
        assert A.f(21) == 42
        assert A.g(21) == 42
        """,
    ),
    right(
        "dataclasses of every kind",
        """
        from __future__ import annotations
        from dataclasses import astuple, dataclass, field
        @dataclass
        class A:
            x: int
            rest: list[int] = field(default_factory=list)
        @dataclass(frozen=True, slots=True, order=True)
        class B:
            x: int
            y: "A | None" = None
        def answer():
            assert A(1) == A(1) and B(1) < B(2) and hash(B(1)) == hash(B(1))
            return astuple(A(42))[0]
        """,
    ),
    right(
        "enums, flags, abstract classes and protocols",
        """
        import abc, enum
        from typing import Generic, Protocol, TypeVar, runtime_checkable
        class Colour(enum.IntEnum): RED = 42
        class Mode(enum.Flag): A = enum.auto(); B = enum.auto()
        @runtime_checkable
        class Sized(Protocol):
            def __len__(self) -> int: ...
        T = TypeVar("T")
        class Base(abc.ABC, Generic[T]):
            @abc.abstractmethod
            def f(self) -> T: ...
        class Child(Base[int]):
            def f(self): return Colour.RED
        def answer():
            assert isinstance([], Sized) and Mode.A | Mode.B
            return Child().f()
        """,
    ),
    right(
        "named tuple",
        """
        from typing import NamedTuple
        from collections import namedtuple
        class Pair(NamedTuple):
            a: int
            b: int
        Other = namedtuple('Other', 'a b')
        def pair(): return Pair(1, 2)
        def other(): return [Other(1, 2)]
        """,
        """
        assert pair() == (1, 2)
        assert other() == [(1, 2)]
        """,
    ),
    right(
        "linked list of three hundred nodes",
        """
        class Node:
            def __init__(self, val=0, next=None): self.val, self.next = val, next
        def turn(head):
            last = None
            while head: head.next, last, head = last, head, head.next
            return last
        """,
        """
        head = None
        for n in range(300): head = Node(n, head)
        node, seen = turn(head), []
        while node: seen.append(node.val); node = node.next
        assert seen == list(range(300))
        """,
        prelude="""
        class Node:
            def __init__(self, val=0, next=None): self.val, self.next = val, next
        """,
        names="turn",
        shapes="Node",
    ),
    right(
        "linked list with a ring in it",
        """
        class Node:
            def __init__(self, val=0, next=None): self.val, self.next = val, next
        def tie(head):
            head.next.next = head
            return head
        """,
        """
        head = tie(Node(1, Node(2)))
        assert head.next.next is head
        assert head.next.val == 2
        """,
        prelude="""
        class Node:
            def __init__(self, val=0, next=None): self.val, self.next = val, next
        """,
        names="tie",
        shapes="Node",
    ),
)

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

RIGHT_VALUES = (*CONCURRENT, *CLASSES, *VALUES)
