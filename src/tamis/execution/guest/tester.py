"""In the tester's process: runs the test, whose calls of the candidate go over a socket, and decides the outcome.

The candidate's process is on the other end. All that comes from there is data or a refusal; what goes there are
arguments, never what is expected.
"""

from __future__ import annotations

import builtins
import select
import socket
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from .candidate import DETAIL_CHARS, describe
from .wire import SCALARS, BadMessageError, Decoder, Encoder, Message, NotDataError, receive, send

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
        self.encoder = Encoder(lambda: shapes, self._refer)
        self.decoder = Decoder(lambda: shapes, lambda content: Remote(self, *content))

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
            if type(value) is not Remote:
                self.calls += 1
            elif name in classes:
                value.__dict__["_tamis_use"] = "class"
        return bound

    def ask(self, remote: Remote, arguments: object = None, attribute: str | None = None) -> Any:  # noqa: ANN401
        """Calls an object of the candidate, or reads an attribute of it."""
        try:
            request = self.encoder.dump(arguments) if attribute is None else {"attribute": attribute}
        except NotDataError as error:
            self.fail("unsupported", f"the test passes {error}")
        self._send({"object": remote._tamis_number, **request})
        self.calls += 1
        return self._receive()

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
        try:
            send(self.channel, message)
        except OSError:
            self.fail("crashed", "")

    def _receive(self) -> Any:  # noqa: ANN401
        try:
            reply = receive(self.channel, max_bytes=self.reply_bytes)
        except (OSError, BadMessageError) as error:
            self.fail("crashed", f"a malformed answer: {error}" if isinstance(error, BadMessageError) else "")
        if reply is None:
            self.fail("crashed", "")
        if "not data" in reply:
            self.fail("unsupported", f"the answer is {reply['not data']}"[:DETAIL_CHARS])
        if "error" in reply:
            raise rebuild_error(reply)
        try:
            return self.decoder.load(reply)
        except BadMessageError as error:
            self.fail("crashed", f"a malformed answer: {error}")

    def _refer(self, value: object) -> Any:  # noqa: ANN401
        if type(value) is Remote:
            return value._tamis_number
        raise NotDataError(f"a value of type {type(value).__name__}, which is not data")


class Remote:
    """An object in the candidate's process.

    It can always be passed back; what else the test may do with it depends on its use: ``function`` (call it),
    ``class`` (call it for an ``instance``, read attributes), ``instance`` (the same), ``opaque`` (nothing).
    Names begin with ``_tamis``: all others are the candidate's.
    """

    def __init__(self, link: Link, number: object, is_callable: object, kind: object) -> None:
        if not (type(number) is int and type(is_callable) is bool and type(kind) is str):
            raise BadMessageError("not a reference")
        use = "function" if is_callable else "opaque"
        self.__dict__.update(_tamis_link=link, _tamis_number=number, _tamis_use=use, _tamis_kind=kind[:40])

    def __call__(self, *arguments: object, **named: object) -> Any:  # noqa: ANN401
        """Calls it in the candidate's process."""
        if self._tamis_use == "opaque":
            self._tamis_refuse()
        answer = self._tamis_link.ask(self, (arguments, named))
        if self._tamis_use == "class" and type(answer) is Remote:
            answer.__dict__["_tamis_use"] = "instance"
        return answer

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Reads an attribute in the candidate's process; methods are remembered."""
        if name.startswith("__"):
            raise AttributeError(name)
        if self._tamis_use not in ("class", "instance"):
            self._tamis_refuse()
        value = self._tamis_link.ask(self, attribute=name)
        if type(value) is Remote and value._tamis_use == "function":
            self.__dict__[name] = value
        return value

    def _tamis_refuse(self) -> NoReturn:
        link: Link = self._tamis_link
        link.fail("unsupported", f"the answer is an object of type {self._tamis_kind}, which is not data")


def _refuse(operation: str) -> Any:  # noqa: ANN401 - stands in for many methods
    def refuse(self: Remote, *_: object) -> NoReturn:
        self._tamis_refuse()

    refuse.__name__ = operation
    return refuse


# All that would judge or use the object by methods that the candidate wrote, or by chance by Python's own.
OPERATIONS = (
    "eq ne lt le gt ge bool len iter contains getitem hash int float index str format abs add radd sub rsub mul "
    "rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow neg and or xor enter round reversed"
)
for _operation in map("__{}__".format, OPERATIONS.split()):
    setattr(Remote, _operation, _refuse(_operation))


def rebuild_error(reply: Message) -> BaseException:
    """The builtin exception that the candidate names, marked as the candidate's by the detail it carries."""
    cls = getattr(builtins, str(reply["error"]), None)
    if not (isinstance(cls, type) and issubclass(cls, BaseException)) or issubclass(cls, BaseExceptionGroup):
        cls = RuntimeError
    sent = reply.get("arguments")
    error = cls.__new__(cls)
    error.args = tuple(item for item in sent if type(item) in SCALARS) if type(sent) is list else ()
    error.candidate_detail = str(reply.get("detail"))[:DETAIL_CHARS]  # type: ignore[attr-defined]
    return error


def free_names(test: str, prelude: str) -> tuple[str, ...]:
    """The names that the test uses and neither it, the prelude nor Python defines: those it expects of the program."""
    import ast  # half of what this process loads, and only for tests that come without names

    used: set[str] = set()
    known = set(dir(builtins))
    for tree in (ast.parse(prelude), ast.parse(test)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                known.add(node.name)
            elif isinstance(node, ast.alias):
                known.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.arg):
                known.add(node.arg)
    return tuple(sorted(used - known))


def run_test(job: Message, channel: socket.socket, reply_bytes: int) -> Outcome:
    """Runs the prelude and the test against the candidate at the other end of the channel."""
    shapes: dict[str, type] = {}
    link = Link(channel, reply_bytes, shapes)
    texts = {FILES[part]: job[part] for part in FILES}
    try:
        job["names"] = job["names"] or free_names(job["test"], job["prelude"])
        job["classes"] = job["classes"] or [name for name in job["names"] if name[0].isupper()]
        link.start(job)
        _run_all(job, link, shapes)
        link.end()
    except LinkLostError:
        pass
    except BaseException as error:  # whatever it was is the outcome
        if link.fault is None:
            return Outcome(*_classify(error, texts), link.calls)
    if link.fault is not None:
        return Outcome(*link.fault, link.calls)
    if link.calls == 0:
        return Outcome("failed", "the test ended without asking the program anything", 0)
    return Outcome("passed", "", link.calls)


def _run_all(job: Message, link: Link, shapes: dict[str, type]) -> None:
    module = types.ModuleType("test")
    sys.modules["test"] = module
    namespace = module.__dict__
    exec(compile(job["prelude"], FILES["prelude"], "exec", dont_inherit=True), namespace)
    code = compile(job["test"], FILES["test"], "exec", dont_inherit=True)
    shapes.update({name: namespace[name] for name in job["shapes"]})
    namespace.update(link.names(job["names"], job["classes"]))
    exec(code, namespace)


def _classify(error: BaseException, texts: dict[str, str]) -> tuple[str, str]:
    theirs = getattr(error, "candidate_detail", None)
    if theirs is None:
        return "failed" if isinstance(error, AssertionError) else "error", describe(error, texts)
    return "memory" if isinstance(error, MemoryError) else "error", theirs
