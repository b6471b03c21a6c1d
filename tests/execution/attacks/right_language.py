"""Odd programs that are right: corners of the language and of its library. All of them pass."""

from __future__ import annotations

from .right_classes import right

RIGHT_LANGUAGE = (
    right(
        "recursion twenty thousand deep",
        """
        import sys
        sys.setrecursionlimit(30_000)
        def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
        """,
        "assert depth(20_000) == 20_000\n",
    ),
    right(
        "expected exceptions",
        """
        class Mine(ValueError): pass
        def f(x):
            if x == 1: raise Mine('one is bad')
            if x == 2: raise KeyError('k')
            return [][0]
        """,
        """
        for x, kind in ((1, ValueError), (2, KeyError), (3, IndexError)):
            try:
                f(x)
            except kind as error:
                assert x != 1 or str(error) == 'one is bad'
            else:
                assert False
        """,
    ),
    right(
        "guard of the main module",
        """
        def answer(): return 42
        if __name__ == '__main__':
            raise SystemExit(answer())
        """,
    ),
    right("Windows line ends and tabs", "def answer():\r\n\tif True:\r\n\t\treturn 42\r\n"),
    right(
        "big output",
        """
        import sys
        print('x' * 3_000_000)
        def answer():
            print('y' * 1_000_000, file=sys.stderr, flush=True)
            sys.stdout.write('z')
            return 42
        """,
    ),
    right(
        "time and chance",
        """
        import random, secrets, time, uuid, datetime
        def answer():
            start = time.perf_counter()
            time.sleep(0.001)
            random.seed(3); random.shuffle([1, 2])
            assert secrets.token_hex(4) and uuid.uuid4()
            assert datetime.datetime.now().year > 2000 and time.time() > 1e9 and time.process_time() >= 0
            return 42 if time.perf_counter() > start else 0
        """,
    ),
    right(
        "decimals and fractions",
        """
        from decimal import Decimal, getcontext
        from fractions import Fraction
        def answer():
            getcontext().prec = 30
            return int(Decimal('41.5') + Decimal(1) / 2) if Fraction(1, 3) * 3 == 1 else 0
        """,
    ),
    right(
        "state between calls",
        """
        calls = 0
        def make():
            kept = []
            def add(x):
                kept.append(x)
                return len(kept)
            return add
        add = make()
        def count():
            global calls
            calls += 1
            return calls
        """,
        """
        assert [count(), count(), count()] == [1, 2, 3]
        assert [add('a'), add('b')] == [1, 2]
        """,
    ),
    right(
        "caches",
        """
        import functools
        @functools.cache
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.lru_cache(maxsize=None)
        def f(x): return x
        """,
        """
        assert fib(90) == 2880067194370816120
        assert f(1) == 1
        """,
    ),
    right(
        "match and walrus",
        """
        def kind(x):
            match x:
                case [a, *rest] if (n := len(rest)) > 1: return n
                case {'a': v}: return v
                case int() | float(): return 'number'
                case _: return None
        """,
        "assert [kind([1, 2, 3]), kind({'a': 5}), kind(2), kind('x')] == [2, 5, 'number', None]\n",
    ),
    right(
        "arguments of all sorts",
        "def f(a, /, b=2, *rest, c, **named): return [a, b, list(rest), c, named]\n",
        """
        assert f(1, c=3) == [1, 2, [], 3, {}]
        assert f(1, 5, 6, c=7, d=8) == [1, 5, [6], 7, {'d': 8}]
        """,
    ),
    right(
        "much of the library",
        """
        import bisect, calendar, contextlib, copy, csv, difflib, hashlib, heapq, io, itertools, json, math, operator, re
        import statistics, string, struct, textwrap, typing, warnings, weakref, zlib
        class Kept: pass
        def answer():
            heap = [3, 1, 2]
            heapq.heapify(heap)
            assert heapq.heappop(heap) == 1 and bisect.bisect([1, 2], 1) == 1
            assert re.findall(r"\\d+", "a1b22") == ["1", "22"] and string.ascii_lowercase[:2] == "ab"
            assert statistics.mean([1, 3]) == 2 and list(itertools.accumulate([1, 2])) == [1, 3]
            assert hashlib.sha256(b"").hexdigest()[:4] == "e3b0" and hashlib.md5(b"").hexdigest()[:4] == "d41d"
            assert next(csv.reader(io.StringIO("a,b"))) == ["a", "b"] and zlib.decompress(zlib.compress(b"x")) == b"x"
            assert copy.deepcopy({"a": [1]}) == {"a": [1]} and operator.itemgetter(1)([0, 5]) == 5
            kept = Kept()
            assert weakref.ref(kept)() is kept and struct.pack(">H", 1) == b"\\0\\1" and calendar.isleap(2024)
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(KeyError):
                print("x")
                {}["a"]
            assert out.getvalue() == "x\\n" and json.loads("[1]") == [1] and textwrap.dedent("  a") == "a"
            return 42
    """,
    ),
    right(
        "descriptors, decorators and metaclasses",
        """
        class Meta(type):
            def __new__(mcs, name, bases, body): return super().__new__(mcs, name, bases, {**body, "added": 40})
        class Two:
            def __get__(self, instance, owner): return 2
        class A(metaclass=Meta): two = Two()
        def twice(f): return lambda *a: f(*a)
        @twice
        def answer(): return A.added + A().two
    """,
    ),
    right(
        "modules that others import late",
        """
        import codecs, datetime, time
        def answer():
            assert datetime.datetime.strptime("2024-02-29", "%Y-%m-%d").day == 29
            assert time.strptime("12:30", "%H:%M").tm_min == 30
            assert datetime.date(2024, 2, 29).strftime("%d %B") == "29 February"
            return 42
        """,
    ),
    right(
        "codecs that are modules",
        """
        import codecs
        def answer():
            assert codecs.encode("abc", "rot13") == "nop" and codecs.encode(b"a", "hex") == b"61"
            assert "é".encode("unicode_escape") == b"\\\\xe9" and "é".encode("cp1252") == b"\\xe9"
            assert "é".encode("latin-1") == b"\\xe9" and "é".encode("ascii", "ignore") == b""
            assert "a".encode("utf-16-le") == b"a\\0" and b"\\xef\\xbb\\xbfa".decode("utf-8-sig") == "a"
            return 42
        """,
    ),
    right(
        "modules that answers are seen to use",
        """
        import argparse, contextvars, copyreg, dis, fnmatch, getopt, hmac, inspect, ipaddress, pickle, platform, sched
        import selectors, shlex, signal, symtable, tokenize
        def answer():
            assert ipaddress.ip_address("192.168.0.1").is_private and shlex.split("a 'b c'") == ["a", "b c"]
            assert pickle.loads(pickle.dumps({"a": [1]})) == {"a": [1]} and fnmatch.fnmatch("ab", "a*")
            assert len(inspect.signature(lambda a, b: 0).parameters) == 2
            return 42
        """,
    ),
    right(
        "test that prints much and warns",
        "def answer(): return 42\n",
        """
        import sys, warnings
        for stream in (sys.stdout, sys.stderr):
            print("x" * 1_000_000, file=stream, flush=True)
        warnings.warn("the answer is old")
        assert answer() == 42
        """,
    ),
    right(
        "evaluates and compiles",
        """
        def answer():
            names = {}
            exec(compile('x = 40 + 2', '<made>', 'exec'), names)
            return eval('x', names)
        """,
    ),
    right(
        "one big computation",
        """
        def primes(n):
            sieve = bytearray([1]) * n
            for i in range(2, int(n ** 0.5) + 1):
                if sieve[i]: sieve[i*i::i] = bytes(len(range(i * i, n, i)))
            return sum(sieve[2:])
        """,
        "assert primes(1_000_000) == 78498\n",
    ),
    right(
        "arguments changed in place stay the program's",
        """
        def clear(x):
            x.clear()
            return x
        """,
        """
        data = [1]
        assert clear(data) == []
        assert data == [1]
        """,
    ),
    right(
        "shadows builtins for itself",
        """
        def sum(x): return 42
        list = tuple
        def answer(): return sum(list([1]))
        """,
        """
        assert answer() == 42
        assert sum([1, 2]) == 3
        """,
    ),
    right("entry point named like a builtin", "def sum(x): return 42\n", "assert sum([1, 2]) == 42\n", names="sum"),
    right(
        "deep garbage",
        """
        def answer():
            nest = []
            for _ in range(100_000): nest = [nest]
            del nest
            return 42
        """,
    ),
    right(
        "gc and cycles",
        """
        import gc
        class A: pass
        def answer():
            for _ in range(5000):
                a = A(); a.me = a
            gc.collect()
            return 42
        """,
    ),
    right(
        "exit hooks and excepthook",
        """
        import atexit, sys
        atexit.register(print, 'bye')
        sys.excepthook = print
        def answer(): return 42
        """,
    ),
)
