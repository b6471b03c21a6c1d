"""In the tester's process: runs the test, whose calls of the candidate go over a socket, and decides the outcome.

The candidate's process is on the other end. All that comes from there is data or a refusal; what goes there are
arguments, never what is expected.
"""

from __future__ import annotations

import builtins
import os
import select
import socket
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from .candidate import DETAIL_CHARS, describe
from .wire import SCALARS, BadMessageError, Decoder, Encoder, Message, NotDataError, receive, send

# Groups cannot be made of a message alone. The others would end a loop of the test as if all had been seen.
NOT_RAISED_AGAIN = (BaseExceptionGroup, StopIteration, StopAsyncIteration, GeneratorExit)
FILES = {"prelude": "<prelude>", "test": "<test>"}


class Outcome(NamedTuple):
    """What the test found: status and detail as in ``Verdict``, and the number of questions put to the candidate."""

    status: str
    detail: str
    calls: int


class LinkLostError(BaseException):
    """The candidate cannot be asked any more, or its answers cannot be used. No test should catch this."""


class Link:
    """The line to the candidate. The first thing that goes wrong on it stays the outcome, whatever the test does.

    Args:
        channel: The socket to the candidate.
        reply_bytes: The longest reply to take.
        shapes: Classes that cross as data, filled once the prelude has run.
    """

    def __init__(self, channel: socket.socket, reply_bytes: int, shapes: Mapping[str, type]) -> None:
        self.channel, self.reply_bytes = channel, reply_bytes
        self.fault: tuple[str, str] | None = None
        self.calls = 0
        self.token = ""
        self.encoder = Encoder(lambda: shapes, self._refer)
        self.decoder = Decoder(lambda: shapes, self._recall)

    def start(self, job: Message) -> None:
        """Sends the program."""
        self._send({key: job[key] for key in ("source", "names", "shapes")})

    def names(self, wanted: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
        """What the program has defined of the names that were asked for, and of no others."""
        found = self._receive()
        if type(found) is not dict:
            self.fail("crashed", "a malformed answer: no names")
        bound = {name: found[name] for name in wanted if name in found}
        for name, value in bound.items():
            if not isinstance(value, Remote):
                self.calls += 1
            elif name in classes:
                value.__dict__["_tamis_use"] = "class"
        return bound

    def ask(self, remote: Remote, request: Message) -> Any:  # noqa: ANN401
        """Puts a question about an object of the candidate."""
        self._send({"object": remote._tamis_number, **request})
        self.calls += 1
        return self._receive()

    def dump(self, value: object) -> Message:
        """The value, to be sent with a question."""
        try:
            return self.encoder.dump(value)
        except NotDataError as error:
            self.fail("unsupported", f"the test passes {error}")

    def end(self) -> None:
        """Looks whether the candidate has said more than it was asked."""
        if self.fault is None and select.select([self.channel], [], [], 0)[0] and self.channel.recv(1):
            self.fail("crashed", "more answers than questions")

    def fail(self, status: str, detail: str) -> NoReturn:
        """Ends the conversation, for good."""
        if self.fault is None:
            self.fault = (status, detail)
            self.channel.close()
        raise LinkLostError(self.fault[1])

    def _send(self, message: Message) -> None:
        if self.fault is not None:
            raise LinkLostError(self.fault[1])
        self.token = os.urandom(8).hex()  # an answer repeats it, so none can be given ahead of its question
        try:
            send(self.channel, message | {"token": self.token})
        except OSError:
            self.fail("crashed", "")

    def _receive(self) -> Any:  # noqa: ANN401
        try:
            reply = receive(self.channel, max_bytes=self.reply_bytes)
        except (OSError, BadMessageError) as error:
            self.fail("crashed", f"a malformed answer: {error}" if isinstance(error, BadMessageError) else "")
        if reply is None:
            self.fail("crashed", "")
        if reply.pop("token", None) != self.token:
            self.fail("crashed", "an answer to another question")
        if "not data" in reply:
            self.fail("unsupported", f"the answer is {reply['not data']}"[:DETAIL_CHARS])
        if "error" in reply:
            raise rebuild_error(reply)
        try:
            return self.decoder.load(reply)
        except BadMessageError as error:
            self.fail("crashed", f"a malformed answer: {error}")

    def _refer(self, value: object) -> Any:  # noqa: ANN401
        if isinstance(value, Remote):
            return value._tamis_number
        raise NotDataError(f"a value of type {type(value).__name__}, which is not data")

    def _recall(self, content: Any) -> Remote:  # noqa: ANN401
        number, is_callable, kind = content
        if not (type(number) is int and type(is_callable) is bool and type(kind) is str):
            raise BadMessageError("not a reference")
        return (RemoteCallable if is_callable else Remote)(self, number, kind[:40])


class Remote:
    """An object in the candidate's process.

    It can always be passed back. What else the test may do with it depends on its use: ``function`` (call it),
    ``class`` (call it for an ``instance``, read and set attributes), ``instance`` (the same), ``opaque`` (nothing).
    Names begin with ``_tamis``: all others are the candidate's.
    """

    def __init__(self, link: Link, number: int, kind: str) -> None:
        use = "function" if isinstance(self, RemoteCallable) else "opaque"
        self.__dict__.update(_tamis_link=link, _tamis_number=number, _tamis_use=use, _tamis_kind=kind)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Reads an attribute in the candidate's process; methods are remembered."""
        if name.startswith("__"):
            raise AttributeError(name)
        self._tamis_need_attributes()
        value = self._tamis_link.ask(self, {"attribute": name})
        if type(value) is RemoteCallable:
            self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        """Sets an attribute in the candidate's process."""
        self._tamis_need_attributes()
        self._tamis_link.ask(self, {"attribute": name} | self._tamis_link.dump(value))
        self.__dict__.pop(name, None)

    def _tamis_need_attributes(self) -> None:
        if self._tamis_use not in ("class", "instance"):
            self._tamis_refuse()

    def _tamis_refuse(self, *_: object) -> NoReturn:
        link: Link = self._tamis_link
        link.fail("unsupported", f"the answer is an object of type {self._tamis_kind}, which is not data")

    # What Python would otherwise answer for every object. All other operations it refuses by itself.
    __eq__ = __ne__ = __hash__ = __bool__ = __str__ = __repr__ = __format__ = _tamis_refuse


class RemoteCallable(Remote):
    """An object in the candidate's process that can be called."""

    def __call__(self, *arguments: object, **named: object) -> Any:  # noqa: ANN401
        """Calls it in the candidate's process."""
        answer = self._tamis_link.ask(self, self._tamis_link.dump((arguments, named)))
        if self._tamis_use == "class" and isinstance(answer, Remote):
            answer.__dict__["_tamis_use"] = "instance"
        return answer


def rebuild_error(reply: Message) -> BaseException:
    """The builtin exception that the candidate names, marked as the candidate's by the detail it carries."""
    cls = getattr(builtins, str(reply["error"]), None)
    if not (isinstance(cls, type) and issubclass(cls, BaseException)) or issubclass(cls, NOT_RAISED_AGAIN):
        cls = RuntimeError
    sent = reply.get("arguments")
    error = cls.__new__(cls)
    error.args = tuple(item for item in sent if type(item) in SCALARS) if type(sent) is list else ()
    error.candidate_detail = str(reply.get("detail"))[:DETAIL_CHARS]  # type: ignore[attr-defined]
    return error


def free_names(test: str, known: Collection[str]) -> list[str]:
    """The names that the test uses and neither it, what it finds, nor Python defines: those it expects of the program.

    Args:
        test: The test's code.
        known: Names that the prelude has defined.
    """
    import ast  # half of what this process loads, and only for tests that come without names

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


def _run_all(job: Message, link: Link, shapes: dict[str, type]) -> None:
    module = types.ModuleType("test")
    sys.modules["test"] = module
    namespace = module.__dict__
    if job["names"]:
        link.start(job)  # the program runs while this process prepares the test
    exec(compile(job["prelude"], FILES["prelude"], "exec", dont_inherit=True), namespace)
    shapes.update({name: namespace[name] for name in job["shapes"]})
    if not job["names"]:
        job["names"] = free_names(job["test"], namespace)
        link.start(job)
    classes = job["classes"] or [name for name in job["names"] if name[0].isupper()]
    code = compile(job["test"], FILES["test"], "exec", dont_inherit=True)
    namespace.update(link.names(job["names"], classes))
    exec(code, namespace)


def _classify(error: BaseException, texts: dict[str, str]) -> tuple[str, str]:
    theirs = getattr(error, "candidate_detail", None)
    if theirs is None:
        return "failed" if isinstance(error, AssertionError) else "error", describe(error, texts)
    return "memory" if isinstance(error, MemoryError) else "error", theirs
