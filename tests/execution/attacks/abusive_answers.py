"""Programs whose answer, exception or source is what is too much."""

from __future__ import annotations

from tamis.execution import Status

from .abuses import SPACE, TIME, abuse, attack

ANSWERS = (
    attack("answer of 16 MiB", "return ['x' * 100] * 160_000", frozenset({Status.UNSUPPORTED, Status.MEMORY})),
    attack("answer of 100 MiB of text", "return 'x' * (100 << 20)", SPACE | {Status.UNSUPPORTED}),
    attack(
        "answer of 32 million bits",
        "return 1 << (32 << 20)",
        frozenset({Status.UNSUPPORTED, Status.MEMORY, Status.TIMEOUT}),
    ),
    attack(
        "endless generator as the answer",
        "return itertools.count()",
        frozenset({Status.UNSUPPORTED, Status.TIMEOUT}),
        "import itertools",
    ),
    attack("generator that never yields as the answer", "return (x for x in iter(int, 1) if x)", TIME),
    attack(
        "list in itself",
        """
        ring = []
        ring.append(ring)
        return ring
        """,
        frozenset({Status.UNSUPPORTED}),
    ),
    attack(
        "dict in itself",
        """
        ring = {}
        ring[1] = ring
        return ring
        """,
        frozenset({Status.UNSUPPORTED}),
    ),
    attack(
        "list that branches into itself",
        """
        ring = []
        ring += [ring] * 10
        return ring
        """,
        frozenset({Status.UNSUPPORTED, Status.TIMEOUT}),
    ),
    attack(
        "answer ten thousand deep",
        """
        nest = []
        for _ in range(10_000): nest = [nest]
        return nest
        """,
        frozenset({Status.UNSUPPORTED}),
    ),
    attack(
        "keys that collide",
        "return dict.fromkeys(range(0, 30_000 * (2 ** 61 - 1), 2 ** 61 - 1))",
        frozenset({Status.TIMEOUT, Status.FAILED}),
    ),
    abuse(
        "keys that collide, forged, so that the test's side must build them",
        """
        import os
        def attack():
            pairs = ",".join(f'[{{"int":"{number * (2 ** 61 - 1):x}"}},0]' for number in range(1, 60_000))
            body = ('{"nodes":[],"value":{"dict":[' + pairs + ']}}').encode()
            data = len(body).to_bytes(4, "big") + body
            while data: data = data[os.write(3, data):]
        """,
    ),
    abuse(
        "ring of nodes",
        """
        class Node:
            def __init__(self, next=None): self.next = next
        def ring():
            node = Node()
            node.next = node
            return node
        """,
    ),
    abuse(
        "range that the test unfolds", "def numbers(): return range(10 ** 12)\n", test="assert list(numbers()) == [1]\n"
    ),
    abuse(
        "number that the test writes out",
        "def number(): return 1 << 8_000_000\n",
        test="""
        import sys
        sys.set_int_max_str_digits(0)
        assert str(number()) == '1'
        """,
    ),
    attack(
        "answer whose end never comes",
        """
        class Evil:
            def __del__(self):
                while True: pass
        Evil()
        """,
        TIME,
    ),
    attack(
        "lying iterator",
        """
        class Evil(list):
            def __iter__(self): return self
            def __next__(self): return 0
            def __len__(self): return 10 ** 9
        return Evil([1])
        """,
    ),
)

EXCEPTIONS = (
    attack(
        "exception whose text never ends",
        """
        class Evil(Exception):
            def __str__(self):
                while True: pass
        raise Evil
        """,
        TIME,
    ),
    attack(
        "exception whose text raises",
        """
        class Evil(Exception):
            def __str__(self): raise SystemExit(0)
        raise Evil
        """,
    ),
    attack(
        "exception whose text is no text",
        """
        class Evil(Exception):
            def __str__(self): return 8
        raise Evil
        """,
        frozenset({Status.ERROR}),
    ),
    attack("exception with 100 MB to say", "raise ValueError('x' * 100_000_000)", SPACE),
    attack(
        "exception with a name of a million letters",
        "raise type('E' * 1_000_000, (Exception,), {})('x')",
        frozenset({Status.ERROR}),
    ),
    attack("exception with lone surrogates", "raise ValueError('\\ud800' * 10)", frozenset({Status.ERROR})),
    attack(
        "object whose repr never ends",
        """
        class Evil:
            def __repr__(self):
                while True: pass
            __reduce__ = __str__ = __repr__
        return Evil()
        """,
    ),
    attack(
        "exceptions in a ring",
        """
        one, two = ValueError(), ValueError()
        one.__cause__ = two
        two.__cause__ = one
        raise one
        """,
        frozenset({Status.ERROR}),
    ),
    abuse(
        "assertion that fails without end",
        """
        def attack():
            while True:
                try: assert False, 'x' * 1000
                except AssertionError: pass
        """,
        TIME,
    ),
)

SOURCES = (
    abuse("source of ten megabytes", "x = 0  # " + "long " * 2_000_000, frozenset({Status.ERROR})),
    abuse("NUL in the source", "x = 1\0", frozenset({Status.ERROR})),
    abuse("lone surrogates in the source", "x = '\ud800'", frozenset({Status.ERROR})),
    abuse("a hundred thousand parentheses", "(" * 100_000 + ")" * 100_000, SPACE),
    abuse("compile bomb of constants", "x = " + "(" * 60 + "((1 << 60),) * 100" + ") * 100" * 60, SPACE),
    abuse("compile bomb of signs", "x = " + "-" * 100_000 + "1", SPACE),
    abuse("compile bomb of branches", "".join(f"{' ' * n}if True:\n" for n in range(90)) + " " * 90 + "pass\n", SPACE),
    abuse("compile bomb of powers", "x = " + "(" * 30 + "2 ** 60" + ") ** 60" * 30, SPACE),
    abuse("star in the source's encoding", "# coding: utf-7\n+AGkAbQBwAG8AcgB0-", frozenset({Status.ERROR})),
    abuse("no source at all", "", frozenset({Status.ERROR})),
    abuse("prose for a source", "Sure! Here is the code you asked for.", frozenset({Status.ERROR})),
)

ABUSIVE_ANSWERS = (*ANSWERS, *EXCEPTIONS, *SOURCES)
