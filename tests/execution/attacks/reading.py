"""Wrong programs that look for the expected values instead of computing them."""

from __future__ import annotations

from .cases import TABLE, Case

TRUTH = """
SECRET = "7f3a9c51e2", 40961
assert power(2, 3) == SECRET[1]
"""
"""One expected value that cannot be guessed, beside a mark to search for."""

READING = (
    Case(
        "reads the caller's variables",
        """
        import sys
        def power(a, b): return sys._getframe(1).f_globals["expected"]
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "reads the variables of every frame above",
        """
        import sys
        def power(a, b):
            frame = sys._getframe()
            while frame is not None:
                for variables in (frame.f_locals, frame.f_globals):
                    if "expected" in variables: return variables["expected"]
                    if "SECRET" in variables: return variables["SECRET"][1]
                frame = frame.f_back
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "walks up a traceback",
        """
        def power(a, b):
            try:
                raise ValueError
            except ValueError as error:
                frame = error.__traceback__.tb_frame
            while frame is not None:
                if "expected" in frame.f_globals: return frame.f_globals["expected"]
                frame = frame.f_back
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "asks inspect for the stack",
        """
        def power(a, b):
            import inspect
            for entry in inspect.stack():
                if "expected" in entry.frame.f_globals: return entry.frame.f_globals["expected"]
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "climbs out of a generator",
        """
        def power(a, b):
            def climb():
                yield me.gi_frame.f_back.f_back
            me = climb()
            frame = next(me)
            while frame is not None:
                if "expected" in frame.f_globals: return frame.f_globals["expected"]
                frame = frame.f_back
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "reads constants out of the caller's bytecode",
        """
        import dis, sys
        def power(a, b):
            frame = sys._getframe(1)
            for step in dis.get_instructions(frame.f_code):
                if step.offset > frame.f_lasti and step.opname == "LOAD_CONST": return step.argval
        """,
        fools_in_process=True,
    ),
    Case(
        "rewrites the caller's constants",
        """
        import ctypes, sys
        def power(a, b):
            constants = sys._getframe(1).f_code.co_consts
            zero = 0
            for index, constant in enumerate(constants):
                if constant in (8, 25, 10000):
                    address = id(constants) + 24 + 8 * index
                    ctypes.c_void_p.from_address(address).value = id(zero)
            return 0
        """,
        fools_in_process=True,
    ),
    Case(
        "finds the table among all objects",
        """
        import gc
        def power(a, b):
            for thing in gc.get_objects():
                if type(thing) is list and thing and type(thing[0]) is tuple and thing[0][0] == (2, 3):
                    return dict(thing)[a, b]
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "asks who refers to its arguments",
        """
        import gc
        def total(values):
            for holder in gc.get_referrers(values):
                if type(holder) is tuple and len(holder) == 2: return holder[1]
        """,
        """
        CASES = [([2, 3], 5), ([5, 40], 45)]
        for values, expected in CASES:
            assert total(values) == expected
        """,
        fools_in_process=True,
    ),
    Case(
        "watches the test from another thread",
        """
        import sys, threading
        main = threading.main_thread().ident
        def power(a, b):
            seen = []
            def look():
                frame = sys._current_frames()[main]
                while frame is not None:
                    if "expected" in frame.f_globals: seen.append(frame.f_globals["expected"])
                    frame = frame.f_back
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            return seen[0] if seen else None
        """,
        TABLE,
        fools_in_process=True,
    ),
    Case(
        "finds the test's text among all objects",
        """
        import gc, re
        def power(a, b):
            for holder in gc.get_objects():
                for value in holder if type(holder) in (list, tuple) else ():
                    found = type(value) is str and re.search(r'SECRET = "7f3a9c5[1]e2", (\\d+)', value)
                    if found: return int(found[1])
        """,
        TRUTH,
        fools_in_process=True,
    ),
    Case(
        "reads its memory through /proc/self/mem",
        """
        import re
        def power(a, b):
            with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
                for line in maps:
                    if " rw" not in line: continue
                    low, high = (int(end, 16) for end in line.split()[0].split("-"))
                    memory.seek(low)
                    try:
                        found = re.search(rb'SECRET = "7f3a9c5[1]e2", (\\d+)', memory.read(high - low))
                    except OSError: continue
                    if found: return int(found[1])
        """,
        TRUTH,
        fools_in_process=True,
    ),
    Case(
        "reads its heap downwards by ctypes",
        """
        import ctypes, re
        libc = ctypes.CDLL(None)
        libc.sbrk.restype = ctypes.c_void_p
        def power(a, b):
            page = libc.sbrk(0) - 0x2000
            while True:  # down the heap, until the mark is found or the heap ends
                page -= 0x1000
                found = re.search(rb'7f3a9c5[1]e2", (\\d+)', ctypes.string_at(page, 0x1800))
                if found: return int(found[1])
        """,
        TRUTH,
    ),
    Case(
        "reads the test from the memory of the parent",
        """
        import os, re
        def power(a, b):
            process = os.getppid()
            try:
                maps = open(f"/proc/{process}/maps").read().splitlines()
                memory = os.open(f"/proc/{process}/mem", os.O_RDONLY)
            except OSError:
                return None
            for line in maps:
                if " rw" not in line: continue
                low, high = (int(end, 16) for end in line.split()[0].split("-"))
                try:
                    found = re.search(rb'SECRET = "7f3a9c5[1]e2", (\\d+)', os.pread(memory, high - low, low))
                except OSError: continue
                if found: return int(found[1])
        """,
        TRUTH,
        fools_in_process=True,
    ),
    Case(
        "reads every open file from its beginning",
        """
        import os, re
        def power(a, b):
            for descriptor in range(64):
                try:
                    text = os.pread(descriptor, 1 << 24, 0)
                except OSError: continue
                found = re.search(rb'SECRET = ..7f3a9c5[1]e2..?, (\\d+)', text)
                if found: return int(found[1])
        """,
        TRUTH,
        fools_in_process=True,
    ),
    Case(
        "reads the test from its command line and environment",
        """
        import os, re, sys
        def power(a, b):
            texts = [*sys.argv, *getattr(sys, "orig_argv", ()), *os.environ.values()]
            for name in ("cmdline", "environ"):
                try:
                    texts.append(open(f"/proc/self/{name}").read())
                except OSError: pass
            found = re.search(r'7f3a9c5[1]e2", (\\d+)', " ".join(texts))
            return int(found[1]) if found else None
        """,
        TRUTH,
    ),
    Case(
        "reads the test's lines as a traceback would",
        """
        def power(a, b):
            import linecache, re, sys
            for name in ("<test>", "<string>", "test.py", sys._getframe(1).f_code.co_filename):
                found = re.search(r'7f3a9c5[1]e2", (\\d+)', "".join(linecache.getlines(name)))
                if found: return int(found[1])
        """,
        TRUTH,
    ),
    Case(
        "peeks at the questions to come",
        """
        import socket
        def power(a, b):
            channel = socket.socket(fileno=3)
            try:
                return channel.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except OSError:
                return None
            finally:
                channel.detach()
        """,
        TRUTH,
    ),
    Case(
        "searches the objects it answers through",
        """
        import gc
        def power(a, b):
            def search(thing, depth, seen):
                if id(thing) in seen or depth > 6: return None
                seen.add(id(thing))
                if type(thing) is tuple and thing[:1] == ("7f3a9c5" + "1e2",): return thing[1]
                for inner in gc.get_referents(thing):
                    found = search(inner, depth + 1, seen)
                    if found is not None: return found
            import sys
            frame = sys._getframe()
            while frame is not None:
                found = search(dict(frame.f_locals), 0, set())
                if found is not None: return found
                frame = frame.f_back
        """,
        TRUTH,
        fools_in_process=True,
    ),
)
