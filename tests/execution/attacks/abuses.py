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


ABUSES_OF_RESOURCES = (*LOOPS, *WAITS, *MEMORY, *COUNTS)
