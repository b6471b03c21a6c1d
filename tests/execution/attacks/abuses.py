"""Programs that use up what they can. Each returns "unbounded" where it could have all it asked for."""

from __future__ import annotations

import textwrap

from tamis.execution import Limits, Status

from .cases import HARMLESS_ENDS, Case

ABUSE_LIMITS = Limits(cpu_s=0.15, wall_s=2.0, memory_mb=256)
UNBOUNDED = 'assert attack() == "unbounded"\n'
TIME = frozenset({Status.TIMEOUT})
SPACE = frozenset({Status.MEMORY, Status.CRASHED, Status.TIMEOUT, Status.ERROR})


def abuse(name: str, source: str, ends: frozenset[Status] = HARMLESS_ENDS, test: str = UNBOUNDED) -> Case:
    """A case that runs into a limit."""
    return Case(name, textwrap.dedent(source), test, ends=ends, quick=False)


def attack(name: str, body: str, ends: frozenset[Status] = HARMLESS_ENDS, imports: str = "") -> Case:
    """The same, of the body of ``attack`` alone."""
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return abuse(name, f"{imports}\ndef attack():\n{body}\n    return 'unbounded'\n", ends)


LOOPS = (
    attack("endless loop", "while True: pass", TIME),
    abuse("endless loop when imported", "while True: pass", TIME),
    attack(
        "endless loop that swallows exceptions",
        """
        while True:
            try:
                while True: pass
            except BaseException: pass
        """,
        TIME,
    ),
    attack("catastrophic regular expression", "re.match(r'(a+)+$', 'a' * 40 + 'b')", TIME, "import re"),
    attack("huge power", "9 ** 9 ** 9", SPACE),
    attack("huge sum in C", "sum(range(10 ** 12))", TIME),
    attack(
        "endless iterator in C",
        "collections.deque(itertools.repeat(0), maxlen=0)",
        TIME,
        "import collections, itertools",
    ),
    attack("sort with an evil key", "sorted(range(10), key=lambda x: sum(range(10 ** 12)))", TIME),
    attack(
        "all signals ignored",
        """
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True: pass
        """,
        TIME,
        "import signal",
    ),
    attack(
        "all signals blocked",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass",
        TIME,
        "import signal",
    ),
    attack(
        "CPU burnt in twenty threads",
        """
        for _ in range(20): threading.Thread(target=lambda: sum(range(10 ** 12)), daemon=True).start()
        time.sleep(60)
        """,
        frozenset({Status.TIMEOUT, Status.ERROR}),
        "import threading, time",
    ),
)

WAITS = (
    attack("sleeps", "time.sleep(60)", TIME, "import time"),
    attack(
        "sleeps with all signals blocked",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(60)",
        TIME,
        "import signal, time",
    ),
    attack("reads its input", "return 'unbounded' if input() else ''", frozenset({Status.ERROR})),
    attack(
        "deadlock",
        """
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
        """,
        TIME,
        "import threading",
    ),
    attack(
        "waits for its own thread",
        "threading.Thread(target=threading.Event().wait).start()\nthreading.Event().wait()",
        TIME,
        "import threading",
    ),
    attack("closes everything and sleeps", "os.closerange(0, 1 << 16)\ntime.sleep(60)", imports="import os, time"),
    attack("exit hook that sleeps", "atexit.register(time.sleep, 60)\nsys.exit()", imports="import atexit, sys, time"),
    attack("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)", imports="import os, signal, time"),
    attack("asks its own channel", "os.read(3, 1)\nreturn ''", imports="import os"),
    attack("alarm without a handler", "signal.alarm(1)\ntime.sleep(60)", imports="import signal, time"),
    abuse(
        "answers slowly, byte by byte",
        """
        import os, time
        def attack():
            for _ in range(600):
                os.write(3, b"\\0")
                time.sleep(0.1)
        """,
    ),
)

MEMORY = (
    attack("list that grows", "grown = []\nwhile True: grown.extend(range(100_000))", SPACE),
    attack("eight GiB of bytes", "bytearray(8 << 30)", SPACE),
    attack("eight GiB of text", "'x' * (8 << 30)", SPACE),
    attack("dict that grows", "grown = {}\nwhile True: grown[len(grown)] = str(len(grown)) * 1000", SPACE),
    attack(
        "zlib bomb",
        "data = zlib.compress(bytes(100 << 20))\nzlib.decompress(data * 1) + bytes(300 << 20)",
        SPACE,
        "import zlib",
    ),
    attack("anonymous mapping", "mmap.mmap(-1, 1 << 33)", SPACE, "import mmap"),
    attack(
        "memory swallowed",
        """
        kept = []
        while True:
            try:
                while True: kept.append(bytes(1 << 20))
            except MemoryError: pass
        """,
        SPACE,
    ),
    attack("endless recursion", "def f(): return f()\nf()", frozenset({Status.ERROR})),
    attack(
        "recursion in C",
        """
        sys.setrecursionlimit(10 ** 9)
        class Deep:
            def __getattr__(self, name): return getattr(self, name + "x")
        Deep().x
        """,
        SPACE,
        "import sys",
    ),
    attack("deep JSON", "sys.setrecursionlimit(10 ** 9)\njson.loads('[' * 10 ** 7)", SPACE, "import json, sys"),
    attack(
        "deep nest destroyed and shown",
        """
        nest = []
        for _ in range(200_000): nest = [nest]
        sys.setrecursionlimit(10 ** 9)
        repr(nest)
        """,
        SPACE,
        "import sys",
    ),
    attack("compiles a deep expression", "compile('(' * 100_000 + ')' * 100_000, 'x', 'eval')", SPACE),
    attack("long chain of operators", "sys.setrecursionlimit(10 ** 9)\neval('-' * 10 ** 6 + '1')", SPACE, "import sys"),
    attack("format with a huge width", "'{:>{}}'.format(1, 10 ** 10)", SPACE),
    attack("huge shift", "1 << (1 << 40)", SPACE),
)

COUNTS = (
    attack(
        "thousands of descriptors", "kept = [os.dup(0) for _ in range(2000)]", frozenset({Status.ERROR}), "import os"
    ),
    attack("thousands of pipes", "kept = [os.pipe() for _ in range(2000)]", frozenset({Status.ERROR}), "import os"),
    attack(
        "thousands of threads",
        """
        for _ in range(5000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """,
        SPACE,
        "import threading, time",
    ),
    attack(
        "big file",
        "with open('big', 'wb') as file:\n    for _ in range(64): file.write(bytes(1 << 20))",
        frozenset({Status.ERROR}),
    ),
    attack("endless output", "while True: print('x' * 100_000)", TIME),
    attack("endless errors", "while True: os.write(2, b'x' * 100_000)", TIME, "import os"),
    # Bounded by itself, for the level that has no way to refuse forks.
    attack(
        "forks",
        """
        for _ in range(30):
            if os.fork() == 0:
                os.setsid()
                time.sleep(60)
                os._exit(0)
        time.sleep(60)
        """,
        frozenset({Status.TIMEOUT, Status.ERROR}),
        "import os, time",
    ),
    attack(
        "forks twice and hides",
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(60)
            os._exit(0)
        while True: pass
        """,
        frozenset({Status.TIMEOUT, Status.ERROR}),
        "import os, time",
    ),
)

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

ABUSES = (*LOOPS, *WAITS, *MEMORY, *COUNTS, *ANSWERS, *EXCEPTIONS, *SOURCES)
