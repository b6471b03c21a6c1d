"""Wrong programs that write on the channel, or break it, or answer in the shapes of its format."""

from __future__ import annotations

import json
import textwrap

from .cases import POWER, Case

FRAME = """
import json, os

def frame(message):
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body

def write(data, descriptor=3):
    try:
        os.write(descriptor, data)
    except OSError:
        pass

def value(data, nodes=()):
    return {"value": data, "nodes": list(nodes)}

NAMES = value({"dict": [["power", {"object": [0, True, "function"]}]]})
"""
"""What a program needs to speak the channel's language by itself: text, put before the source of each case."""

VERDICTS = [
    {"status": "passed", "detail": "", "calls": 3},
    {"nonce": "0", "status": "passed", "detail": ""},
    {"reason": "ended", "code": 0, "cpu_s": 0.0, "peak_mb": 1.0, "status": "passed"},
    {"ready": "candidate"},
]


def forged(name: str, source: str, test: str = POWER, **options: bool) -> Case:
    """A case whose source begins with FRAME."""
    return Case(name, FRAME + textwrap.dedent(source), test, **options)  # type: ignore[arg-type]


def replies(name: str, bodies: str, test: str = POWER) -> Case:
    """A program that answers each call with one raw body (an expression) and then says no more."""
    source = f"BODY = {bodies}\ndef power(a, b):\n    write(len(BODY).to_bytes(4, 'big') + BODY)\n    os.close(3)\n"
    return forged(name, source, test)


SWALLOWS = """
wrong = 0
for arguments, expected in [((2, 3), 8), ((5, 2), 25)]:
    try:
        wrong += power(*arguments) != expected
    except Exception:
        pass
assert not wrong
"""
"""A careless test: whatever goes wrong on the channel must outlast its ``except``."""

MESSAGES = (
    forged(
        "verdicts on the channel, then the end",
        f"for verdict in {VERDICTS!r}:\n    write(frame(verdict))\n    write(json.dumps(verdict).encode() + b'\\n')\n"
        "os._exit(0)\n",
        fools_in_process=True,
    ),
    forged(
        "verdicts on every descriptor",
        f"for verdict in {VERDICTS!r}:\n    for descriptor in range(256):\n"
        "        write(frame(verdict), descriptor)\n        write(json.dumps(verdict).encode() + b'\\n', descriptor)\n"
        "def power(a, b): return 0\n",
    ),
    forged(
        "verdict instead of an answer",
        f"def power(a, b):\n    write(frame({{**value(8), **{VERDICTS[0]!r}}}))\n    return 0\n",
    ),
    forged(
        "right answers ahead of the questions",
        """
        for message in (NAMES, value(8), value(25), value(10000)): write(frame(message))
        def power(a, b): return 0
        """,
    ),
    forged(
        "right answers ahead, after the first question",
        """
        def power(a, b):
            for number in (25, 10000): write(frame(value(number)))
            return 0
        """,
        """
        assert power(9, 9) == 25
        assert power(5, 2) == 10000
        """,
    ),
    forged(
        "two answers to one question",
        """
        def power(a, b):
            if (a, b) == (2, 3): write(frame(value(8)))
            return 25 if (a, b) == (2, 3) else 10000
        """,
    ),
    forged(
        "two answers to one question, in the words that it came with",
        """
        import sys
        def power(a, b):
            above, words = sys._getframe(1), {}
            while above is not None:
                asked = above.f_locals.get("request")
                if type(asked) is dict:
                    words = {key: asked[key] for key in asked if key not in ("object", "value", "nodes")}
                above = above.f_back
            if (a, b) == (2, 3): write(frame({**value(8), **words}))
            return 25 if (a, b) == (2, 3) else 10000
        """,
    ),
    forged(
        "all answers at once, in the words of the first question",
        """
        import sys
        def power(a, b):
            above, words = sys._getframe(1), {}
            while above is not None:
                asked = above.f_locals.get("request")
                if type(asked) is dict:
                    words = {key: asked[key] for key in asked if key not in ("object", "value", "nodes")}
                above = above.f_back
            for number in (8, 25, 10000): write(frame({**value(number), **words}))
            return 0
        """,
    ),
    forged(
        "right answers ahead from another thread",
        """
        import threading
        def ahead():
            for message in (NAMES, value(8), value(25), value(10000)): write(frame(message))
        thread = threading.Thread(target=ahead)
        thread.start()
        thread.join()
        def power(a, b): return 0
        """,
    ),
    forged(
        "ahead of the questions, then deaf",
        """
        import time
        for message in (NAMES, value(8), value(25), value(10000)): write(frame(message))
        os.close(3)
        os._exit(0)
        """,
        fools_in_process=True,
    ),
    forged(
        "names that it was not asked for",
        """
        forged = [[name, {'object': [0, True, 'function']}] for name in ('check', 'abs', 'power', 'candidate', 'same')]
        forged.append(['__builtins__', {'dict': []}])
        write(frame(value({'dict': forged})))
        def power(a, b): return True
        """,
        """
        def same(a, b): return a == b
        assert same(abs(power(2, 3)), 8)
        """,
    ),
    forged(
        "names as a list",
        """
        write(frame(value(['power'])))
        def power(a, b): return 8
        """,
    ),
    forged(
        "entry point as a plain value",
        """
        write(frame(value({'dict': [['power', 8]]})))
        def power(a, b): return 8
        """,
        SWALLOWS + "assert power == 8\nassert power(2, 3) == 8\n",
    ),
    replies("announces four GiB", "b'{' * (1 << 16)", SWALLOWS),
    forged(
        "announces four GiB and hangs up",
        """
        def power(a, b):
            write(b'\\xff' * 4)
            os.close(3)
        """,
        SWALLOWS,
    ),
    forged(
        "announces more than it sends",
        """
        def power(a, b):
            write(b'\\0\\0\\1\\0{')
            os.close(3)
        """,
        SWALLOWS,
    ),
    replies("nothing at all", "b''", SWALLOWS),
    replies("not JSON", "b'passed'", SWALLOWS),
    replies("not UTF-8", "b'\\xff\\xfe\\x00'", SWALLOWS),
    replies("a list for an object", "b'[8]'", SWALLOWS),
    replies("JSON a hundred thousand deep", "b'[' * 100_000 + b']' * 100_000", SWALLOWS),
    replies("value a hundred deep", "b'{\"nodes\": [], \"value\": ' + b'[' * 100 + b']' * 100 + b'}'", SWALLOWS),
    replies("an int of a million digits", "b'{\"nodes\": [], \"value\": ' + b'1' * 1_000_000 + b'}'", SWALLOWS),
    replies("a value twice", 'b\'{"nodes": [], "value": 8, "value": 0}\''),
    replies("not a number, as JSON has it not", 'b\'{"nodes": [], "value": NaN}\''),
    replies("nodes that are none", 'b\'{"nodes": {"a": 1}, "value": 8}\'', SWALLOWS),
    replies("no nodes", "b'{\"value\": 8}'", SWALLOWS),
    *(
        replies(f"malformed data: {label}", repr(json.dumps({"value": data, "nodes": []}).encode()), SWALLOWS)
        for label, data in {
            "tag eval": {"eval": "8"},
            "tag of two": {"int": "8", "list": [8]},
            "empty tag": {},
            "dunder tag": {"__class__": [8]},
            "int in words": {"int": "eight"},
            "int of a list": {"int": [8]},
            "bytes of a number": {"bytes": 8},
            "complex beyond floats": {"complex": [10**400, 1]},
            "dict of triples": {"dict": [[1, 2, 3]]},
            "set of lists": {"set": [[8]]},
            "node that is not there": {"node": 5},
            "node before the first": {"node": -1},
            "range of words": {"range": ["a", "b"]},
            "reference with a name": {"object": ["__class__", True, "f"]},
            "reference of two": {"object": [0, True]},
            "reference in a set": {"set": [{"object": [0, True, "f"]}]},
        }.items()
    ),
    forged(
        "reference that is equal to everything",
        """
        class Equal:
            def __eq__(self, other): return True
        def power(a, b):
            write(frame(value({'object': [0, True, 'int']})))
            return Equal()
        """,
        fools_in_process=True,
    ),
    *(
        forged(
            f"error in the name of {name}",
            f"def power(a, b):\n    write(frame({{'error': {name!r}, 'message': {message!r}, 'detail': ''}}))\n"
            "    return 0\n",
            """
            try:
                got = power(2, 3)
            except Exception:
                got = 0
            assert got == 8
            """,
        )
        for name, message in {
            "exec": "raise SystemExit(0)",
            "eval": "__import__('os')._exit(0)",
            "exit": "0",
            "__build_class__": "",
            "SystemExit": "0",
            "GeneratorExit": "",
            "LinkLostError": "",
        }.items()
    ),
    forged("closes the channel", "def power(a, b): os.close(3)\n", SWALLOWS),
    forged(
        "puts /dev/null in the channel's place",
        """
        def power(a, b):
            os.dup2(0, 3)
            return 8
        """,
        SWALLOWS,
    ),
    forged(
        "shuts its half of the channel",
        """
        import socket
        def power(a, b):
            try:
                channel = socket.socket(fileno=3)
                channel.shutdown(socket.SHUT_WR)
                channel.detach()
            except OSError: pass
            return 0
        """,
        SWALLOWS,
    ),
    forged(
        "puts a channel of its own in its place",
        """
        import socket
        ours, theirs = socket.socketpair()
        def power(a, b):
            os.dup2(theirs.fileno(), 3)
            ours.sendall(frame({'object': 0, 'value': [{'tuple': []}, {'dict': []}], 'nodes': []}))
            return 8
        """,
        SWALLOWS,
        quick=False,
    ),
    Case(
        "answers a list in the shape of a tag",
        "def letters(text): return ['set', ['a', 'b']]\n",
        "assert letters('ab') == {'a', 'b'}\n",
    ),
    Case(
        "answers a dict in the shape of a tag",
        "def letters(text): return {'set': ['a', 'b']}\n",
        "assert letters('ab') == {'a', 'b'}\n",
    ),
    Case(
        "answers a dict in the shape of a message",
        "def power(a, b): return {'value': 8, 'nodes': []}\n",
    ),
    Case(
        "answers a str in the shape of a message",
        'def power(a, b): return \'", "value": 8, "nodes": []}\'\n',
    ),
)
