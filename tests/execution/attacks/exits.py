"""Wrong programs that end the process, or the test's loop, before the wrong answer shows."""

from __future__ import annotations

from .cases import Case

EXPECTS_AN_ERROR = """
try:
    parse("x")
except Exception:
    pass
else:
    raise AssertionError("parse took it")
"""
PAIRS = """
for got, want in zip(map(double, [1, 2, 3]), [2, 4, 6]):
    assert got == want
"""

EXITS = (
    Case(
        "ends at once",
        """
        import os
        os._exit(0)
        """,
        fools_in_process=True,
    ),
    Case(
        "ends in the call",
        """
        import os
        def power(a, b): os._exit(0)
        """,
        fools_in_process=True,
    ),
    Case(
        "sys.exit when imported",
        """
        import sys
        sys.exit(0)
        """,
        fools_in_process=True,
    ),
    Case(
        "sys.exit in the call",
        """
        import sys
        def power(a, b): sys.exit(0)
        """,
        fools_in_process=True,
    ),
    Case("SystemExit without a code", "def power(a, b): raise SystemExit\n", fools_in_process=True),
    Case(
        "quit in the call",
        """
        def power(a, b):
            import site
            site.setquit()
            quit()
        """,
        fools_in_process=True,
    ),
    Case("KeyboardInterrupt", "def power(a, b): raise KeyboardInterrupt\n"),
    Case("GeneratorExit", "def power(a, b): raise GeneratorExit\n"),
    Case("AssertionError of its own", "def power(a, b): raise AssertionError\n"),
    Case("StopIteration", "def power(a, b): raise StopIteration\n"),
    Case(
        "StopIteration ends the test's loop early",
        "def double(x): raise StopIteration\n",
        PAIRS,
        fools_in_process=True,
    ),
    Case(
        "subclass of StopIteration ends the test's loop early",
        """
        class Enough(StopIteration): pass
        def double(x):
            if x == 1: return 2
            raise Enough
        """,
        PAIRS,
        fools_in_process=True,
    ),
    Case(
        "StopIteration leaves a list short",
        "def double(x): raise StopIteration\n",
        """
        got = list(map(double, [1, 2, 3]))
        assert all(a == b for a, b in zip(got, [2, 4, 6]))
        """,
        fools_in_process=True,
    ),
    Case(
        "StopAsyncIteration ends the test's loop early",
        "def double(x): raise StopAsyncIteration\n",
        """
        import asyncio
        class Answers:
            def __init__(self): self.left = [1, 2, 3]
            def __aiter__(self): return self
            async def __anext__(self): return double(self.left.pop(0))
        async def judge():
            async for got in Answers(): assert got in (2, 4, 6)
        asyncio.run(judge())
        """,
        fools_in_process=True,
    ),
    Case(
        "ends from a thread",
        """
        import os, threading
        one = threading.Thread(target=os._exit, args=(0,))
        one.start()
        one.join()
        """,
        fools_in_process=True,
    ),
    Case(
        "ends from a thread in the call",
        """
        import os, threading, time
        def power(a, b):
            threading.Thread(target=os._exit, args=(0,)).start()
            time.sleep(1)
        """,
        fools_in_process=True,
    ),
    Case(
        "exit hook overrules the code",
        """
        import atexit, os
        atexit.register(os._exit, 0)
        def power(a, b): return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "exception hook overrules the code",
        """
        import os, sys
        sys.excepthook = lambda *a: os._exit(0)
        def power(a, b): return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "answer that ends the process when it is dropped",
        """
        import os
        class Last:
            def __del__(self, leave=os._exit): leave(0)
        def power(a, b): return Last()
        """,
        fools_in_process=True,
    ),
    Case(
        "alarm that ends the process",
        """
        import os, signal, time
        signal.signal(signal.SIGALRM, lambda *a: os._exit(0))
        def power(a, b):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            time.sleep(1)
            return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "becomes another program",
        """
        import os
        def power(a, b): os.execv('/bin/true', ['true'])
        """,
        fools_in_process=True,
    ),
    Case(
        "leaves a child to go on",
        """
        import os, time
        def power(a, b):
            if os.fork(): os._exit(0)
            return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "segmentation fault",
        """
        import ctypes
        def power(a, b): ctypes.string_at(0)
        """,
    ),
    Case(
        "abort",
        """
        import os
        def power(a, b): os.abort()
        """,
    ),
    Case(
        "ends where an exception is expected",
        """
        import os
        def parse(text): os._exit(0)
        """,
        EXPECTS_AN_ERROR,
        fools_in_process=True,
    ),
    Case(
        "answers no data where an exception is expected",
        "def parse(text): return object()\n",
        EXPECTS_AN_ERROR,
    ),
    Case(
        "breaks the channel where an exception is expected",
        """
        import os
        def parse(text): os.close(3)
        """,
        EXPECTS_AN_ERROR,
    ),
    Case(
        "raises at import what the call should raise",
        "raise ValueError('x')\n",
        """
        try:
            parse('x')
        except ValueError:
            pass
        """,
    ),
    Case(
        "exception of the right name only",
        """
        class ValueError(Exception): pass
        def parse(text): raise ValueError(text)
        """,
        """
        import builtins
        try:
            parse('x')
        except builtins.ValueError:
            pass
        """,
    ),
    Case(
        "exception named like a function, with code as its message",
        """
        CODE = "__import__('sys').settrace(None) or __import__('os')._exit(0)"
        def power(a, b): raise type("eval", (Exception,), {})(CODE)
        """,
    ),
    Case(
        "exception that builds itself from code",
        """
        class exec(BaseException):
            def __str__(self): return "import builtins; builtins.abs = lambda x: 0"
        def power(a, b): raise exec()
        """,
        """
        for turn in range(2):
            try:
                got = power(2, 3)
            except BaseException:
                got = 1000
        assert abs(got - 8) < 1
        """,
    ),
    Case(
        "group of exceptions",
        "def power(a, b): raise BaseExceptionGroup('many', [SystemExit(0), StopIteration()])\n",
    ),
    Case(
        "exceptions that need more than a message",
        "def power(a, b): raise UnicodeDecodeError('utf-8', b'', 0, 1, 'x')\n",
    ),
)
