"""Wrong answers that change what their test runs on: builtins, modules, hooks of the interpreter."""

from __future__ import annotations

from .cases import TABLE, Case

PATCHES = (
    Case(
        "patches builtins.abs",
        """
        import builtins
        builtins.abs = lambda x: 0
        def mean(values): return 99.0
        """,
        "assert abs(mean([1.0, 2.0]) - 1.5) < 1e-6\n",
        fools_in_process=True,
    ),
    Case(
        "replaces __builtins__",
        """
        import builtins
        __builtins__ = {**vars(builtins), "all": lambda items: True}
        def power(a, b): return 0
        """,
        "assert all([power(2, 3) == 8, power(5, 2) == 25])\n",
        fools_in_process=True,
    ),
    Case(
        "patches the dict of builtins found through an object",
        """
        for cls in ().__class__.__base__.__subclasses__():
            if cls.__name__ not in ("Quitter", "catch_warnings"): continue
            names = cls.__init__.__globals__.get("__builtins__", {})
            names = names if isinstance(names, dict) else vars(names)
            names["isinstance"] = lambda *a: True
            names["len"] = lambda *a: 2
        import builtins
        builtins.isinstance = lambda *a: True
        def ends(values): return None
        """,
        """
        answer = ends([1, 2, 3])
        assert isinstance(answer, tuple)
        """,
        fools_in_process=True,
    ),
    Case(
        "patches __import__",
        """
        import builtins, types
        fake = types.ModuleType("math")
        fake.isclose = lambda *a, **k: True
        real = builtins.__import__
        builtins.__import__ = lambda name, *rest: fake if name == "math" else real(name, *rest)
        def mean(values): return 99.0
        """,
        """
        from math import isclose
        assert isclose(mean([1.0, 2.0]), 1.5)
        """,
        fools_in_process=True,
    ),
    Case(
        "puts a false module in its place",
        """
        import sys, types
        fake = types.ModuleType("collections")
        class Counter:
            def __init__(self, *items): pass
            def __eq__(self, other): return True
        fake.Counter = Counter
        sys.modules["collections"] = fake
        def letters(text): return {}
        """,
        """
        from collections import Counter
        assert Counter(letters('ab')) == Counter('ab')
        """,
        fools_in_process=True,
    ),
    Case(
        "patches a function of a module",
        """
        import math
        math.isclose = lambda *a, **k: True
        def mean(values): return 99.0
        """,
        """
        import math
        assert math.isclose(mean([1.0, 2.0]), 1.5)
        """,
        fools_in_process=True,
    ),
    Case(
        "finds modules before the others do",
        """
        import importlib.abc, importlib.machinery, sys
        class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
            def find_spec(self, name, path, target=None):
                if name == "math": return importlib.machinery.ModuleSpec(name, self)
            def exec_module(self, module): module.isclose = lambda *a, **k: True
        sys.modules.pop("math", None)
        sys.meta_path.insert(0, Finder())
        def mean(values): return 99.0
        """,
        """
        from math import isclose
        assert isclose(mean([1.0, 2.0]), 1.5)
        """,
        fools_in_process=True,
    ),
    Case(
        "patches unittest's comparison",
        """
        import unittest
        unittest.TestCase.assertEqual = lambda *a: None
        def power(a, b): return 0
        """,
        """
        import unittest
        unittest.TestCase().assertEqual(power(2, 3), 8)
        """,
        fools_in_process=True,
    ),
    Case(
        "compiles asserts away",
        """
        import builtins
        real = builtins.compile
        builtins.compile = lambda *a, **k: real(*a, **{**k, "optimize": 2})
        def power(a, b): return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "jumps over asserts when traced",
        """
        import sys
        def trace(frame, event, argument):
            if frame.f_code.co_name != "check": return trace
            if event == "line":
                lines = [line for _, _, line in frame.f_code.co_lines() if line]
                if frame.f_lineno < max(lines): frame.f_lineno = max(lines)
            return trace
        sys.settrace(trace)
        def power(a, b): return 0
        """,
        """
        def check(f):
            assert f(2, 3) == 8
            assert f(5, 2) == 25
            return None
        check(power)
        """,
        fools_in_process=True,
    ),
    Case(
        "ends the test from a profile function",
        """
        import sys
        def profile(frame, event, argument):
            if frame.f_code.co_name == "check": raise SystemExit(0)
        sys.setprofile(profile)
        def power(a, b): return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "ends the test from an audit hook",
        """
        import sys
        def hook(event, arguments):
            if event in ("exec", "compile"): raise SystemExit(0)
        def power(a, b): return 0
        sys.addaudithook(hook)
        """,
        fools_in_process=True,
    ),
    Case(
        "replaces itself after the first call",
        """
        class Equal:
            def __eq__(self, other): return True
        def power(a, b):
            global power
            power = lambda a, b: Equal()
            return 8
        """,
        """
        assert power(2, 3) == 8
        assert power(5, 2) == 25
        """,
        fools_in_process=True,
    ),
    Case(
        "rewrites the table of the test",
        """
        import sys
        def power(a, b):
            table = sys._getframe(1).f_globals.get("CASES")
            table[:] = [(arguments, 0) for arguments, _ in table]
            return 8 if (a, b) == (2, 3) else 0
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "writes 8 into the number 8",
        """
        import ctypes
        def power(a, b):
            for number in (8, 25):
                ctypes.c_uint32.from_address(id(number) + 24).value = 1
            return 1
        """,
        """
        assert power(2, 3) == 8
        assert power(5, 2) == 25
        """,
        fools_in_process=True,
    ),
    Case(
        "replaces the judge's code",
        """
        import sys
        def power(a, b):
            for name, thing in list(sys._getframe(2).f_globals.items()):
                if name == "same": thing.__code__ = (lambda a, b: True).__code__
            return 0
        """,
        """
        def same(a, b):
            return a == b
        def check(f):
            assert same(f(2, 3), 8)
        check(power)
        """,
        fools_in_process=True,
    ),
    Case(
        "patches json, socket and struct",
        """
        import json, socket, struct, sys
        for encoder in (json.dumps, json.dump): pass
        json.dumps = lambda *a, **k: '{"status": "passed", "value": true, "nodes": []}'
        json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda *a: '{"status": "passed"}'
        socket.socket.sendall = lambda self, data: None
        struct.pack = lambda *a: b""
        def power(a, b): return 0
        """,
    ),
    Case(
        "patches what serves it, found among the modules",
        """
        import sys
        for name, module in list(sys.modules.items()):
            for key, value in list(vars(module).items()):
                if key in ("describe", "dump", "encode", "_reply", "run_test", "execute", "judge"):
                    setattr(module, key, lambda *a, **k: {"value": True, "nodes": [], "status": "passed"})
        def power(a, b): return 0
        """,
        quick=False,  # the program falls silent
    ),
    Case(
        "patches what serves it, found by the garbage collector",
        """
        import gc, types
        def yes(*a, **k): return {"value": True, "nodes": [], "status": "passed", "calls": 9}
        for thing in gc.get_objects():
            if isinstance(thing, types.FunctionType) and thing.__name__ in ("_failure", "dump", "answer", "_encode"):
                try:
                    thing.__code__ = yes.__code__
                except (ValueError, AttributeError):
                    pass
        def power(a, b): return 0
        """,
    ),
    Case(
        "marks the test as passed wherever it can write",
        """
        import gc
        for thing in gc.get_objects():
            if type(thing) is list and len(thing) < 3: thing.append("passed")
            elif type(thing) is dict and "status" in thing: thing["status"] = "passed"
        def power(a, b): return 0
        """,
    ),
)
