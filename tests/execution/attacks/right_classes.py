"""Odd programs that are right: threads and classes of all sorts. All of them pass."""

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

SHAPES = (
    right(
        "frozen dataclass as a shape",
        """
        from dataclasses import dataclass, replace
        @dataclass(frozen=True)
        class Point:
            x: int
            y: int
        def move(point): return replace(point, x=point.x + 1)
        """,
        "assert move(Point(1, 2)) == Point(2, 2)\nassert {move(Point(1, 2))} == {Point(2, 2)}\n",
        prelude="from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Point:\n    x: int\n    y: int\n",
        names="move",
        shapes="Point",
    ),
    right(
        "shape with slots",
        """
        class Base:
            __slots__ = ("x",)
        class Point(Base):
            __slots__ = ("y",)
            def __init__(self, x, y): self.x, self.y = x, y
        def move(point): return Point(point.x + 1, point.y)
        """,
        "point = move(Point(1, 2))\nassert (point.x, point.y) == (2, 2)\n",
        prelude="""
        class Base:
            __slots__ = ("x",)
        class Point(Base):
            __slots__ = ("y",)
            def __init__(self, x, y): self.x, self.y = x, y
        """,
        names="move",
        shapes="Point",
    ),
)

RIGHT_CLASSES = (*CONCURRENT, *CLASSES, *SHAPES)
