"""In the tester's process: runs the test, whose calls of the candidate go over a socket, and decides the outcome.

The candidate's process is on the other end. All that comes from there is data or a refusal; what goes there are
arguments, never what is expected.
"""

from __future__ import annotations

import ast
import builtins
import functools
import socket
import sys
import types
from collections.abc import Collection
from typing import NamedTuple

from .candidate import describe
from .link import Link, LinkLostError
from .wire import Message

FILES = {"prelude": "<prelude>", "test": "<test>"}


class Outcome(NamedTuple):
    """What the test found: status and detail as in ``Verdict``, and the number of questions put to the candidate."""

    status: str
    detail: str
    calls: int


def free_names(test: str, known: Collection[str]) -> list[str]:
    """The names that the test uses and neither it, what it finds, nor Python defines: those it expects of the program.

    Args:
        test: The test's code.
        known: Names that the prelude has defined.
    """
    used: set[str] = set()
    defined = {*dir(builtins), *known}
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
    return sorted(used - defined)


def run_test(job: Message, channel: socket.socket, reply_bytes: int) -> Outcome:
    """Runs the prelude and the test against the candidate at the other end of the channel."""
    shapes: dict[str, type] = {}
    link = Link(channel, reply_bytes, shapes)
    found: tuple[str, str] | None = None
    try:
        try:
            _run_all(job, link, shapes)
            link.end()
        except LinkLostError:
            pass
        except BaseException as error:  # whatever it was is the outcome
            found = _classify(error, {FILES[part]: job[part] for part in FILES})
    except LinkLostError:  # its message was to show an object of the candidate
        pass
    if link.fault is None and found is None and link.calls == 0:
        found = ("failed", "the test ended without asking the program anything")
    return Outcome(*(link.fault or found or ("passed", "")), link.calls)


@functools.lru_cache(maxsize=256)
def compiled(text: str, file: str) -> types.CodeType:
    """The code of a test, which comes once for each of a task's samples."""
    return compile(text, file, "exec", dont_inherit=True)


def _run_all(job: Message, link: Link, shapes: dict[str, type]) -> None:
    module = types.ModuleType("test")
    sys.modules["test"] = module
    namespace = module.__dict__
    if job["names"]:
        link.start(job)  # the program runs while this process prepares the test
    exec(compiled(job["prelude"], FILES["prelude"]), namespace)
    shapes.update({name: namespace[name] for name in job["shapes"]})
    if not job["names"]:
        job["names"] = free_names(job["test"], namespace)
        link.start(job)
    classes = job["classes"]
    if classes is None:
        classes = [name for name in job["names"] if name[0].isupper()]
    code = compiled(job["test"], FILES["test"])
    namespace.update(link.names(job["names"], classes))
    exec(code, namespace)


def _classify(error: BaseException, texts: dict[str, str]) -> tuple[str, str]:
    theirs = getattr(error, "candidate_detail", None)
    if theirs is None:
        return "failed" if isinstance(error, AssertionError) else "error", describe(error, texts)
    return "memory" if isinstance(error, MemoryError) else "error", theirs
