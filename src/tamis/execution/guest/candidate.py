"""In the candidate's process: runs the program, then answers what the test asks of it.

Nothing here is trusted once the program runs: it may replace all of this. What counts is decided in ``tester.py``.
"""

from __future__ import annotations

import builtins
import operator
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from .wire import SCALARS, BadMessageError, Decoder, Encoder, Message, NotDataError, receive, send

DETAIL_CHARS = 200
FILE = "<program>"
OPERATORS: dict[str, Callable[..., Any]] = {
    "len": len,
    "iter": iter,
    "contains": operator.contains,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
}


def serve(channel: socket.socket, reply_bytes: int) -> None:
    """Runs the program that the tester sends, and answers until the tester hangs up.

    Args:
        channel: The socket to the tester.
        reply_bytes: The longest reply to send: a longer one is reported as such.
    """
    job = receive(channel)
    if job is None:
        return
    candidate = Candidate(job["source"], job["shapes"])
    _reply(channel, job, candidate.start(job["names"]), reply_bytes)
    while candidate.started and (request := receive(channel)) is not None:
        _reply(channel, request, candidate.answer(request), reply_bytes)


def _reply(channel: socket.socket, request: Message, reply: Message, reply_bytes: int) -> None:
    token = {"token": request["token"]}
    try:
        send(channel, reply | token, max_bytes=reply_bytes)
    except (NotDataError, ValueError, RecursionError) as error:
        send(channel, {"not data": str(error)[:DETAIL_CHARS]} | token)


class Candidate:
    """The program's module, and the objects that the tester refers to."""

    def __init__(self, source: str, shapes: list[str]) -> None:
        self.source = source
        self.started = False
        self.objects: list[object] = []
        self.numbers: dict[int, int] = {}  # by id, which stays an object's own while the list above keeps it
        self.module = types.ModuleType("candidate")
        self.namespace = self.module.__dict__
        self.shapes = shapes
        self.encoder = Encoder(self._shapes, self._refer)
        self.decoder = Decoder(self._shapes, lambda number: self.objects[number])

    def start(self, names: list[str]) -> Message:
        """Runs the source; returns those of the names that it defines, with their values."""
        sys.modules["candidate"] = self.module  # dataclasses and typing look their module up there
        try:
            exec(compile(self.source, FILE, "exec", dont_inherit=True), self.namespace)
            self.started = True
            return self.encoder.dump({name: self.namespace[name] for name in names if name in self.namespace})
        except BaseException as error:  # whatever it was, the tester is told
            return self._failure(error)

    def answer(self, request: Message) -> Message:
        """Calls a function, applies an operator, reads or sets an attribute; returns what came of it."""
        try:
            target = self.objects[request["object"]]
            if "operator" in request:
                return self.encoder.dump(OPERATORS[request["operator"]](target, *self.decoder.load(request)))
            if "attribute" in request and "value" in request:
                setattr(target, request["attribute"], self.decoder.load(request))
                return self.encoder.dump(None)
            if "attribute" in request:
                return self.encoder.dump(getattr(target, request["attribute"]))
            arguments, named = self.decoder.load(request)
            return self.encoder.dump(target(*arguments, **named))  # type: ignore[operator]
        except BaseException as error:
            return self._failure(error)

    def _shapes(self) -> dict[str, type]:
        found = {name: self.namespace.get(name) for name in self.shapes}
        return {name: cls for name, cls in found.items() if isinstance(cls, type)}

    def _refer(self, value: object) -> Any:  # noqa: ANN401 - JSON
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return [self.numbers[id(value)], callable(value), type(value).__name__]

    def _failure(self, error: BaseException) -> Message:
        if isinstance(error, (NotDataError, BadMessageError)):
            return {"not data": str(error)}
        if isinstance(error, MemoryError):
            self.namespace.clear()  # or there may be too little left to say so
            self.objects.clear()
        names = [cls.__name__ for cls in type(error).__mro__ if getattr(builtins, cls.__name__, None) is cls]
        detail = describe(error, {FILE: self.source})
        return {"error": names[0], "arguments": _arguments(error), "detail": detail}


def _arguments(error: BaseException) -> list[Any]:
    """The exception's arguments if they are short and plain, else its message."""
    plain = all(type(item) in SCALARS and len(repr(item)) < DETAIL_CHARS for item in error.args)
    return list(error.args) if plain else [_message(error)]


def _message(error: BaseException) -> str:
    try:
        return str(error.msg if isinstance(error, SyntaxError) else error)[:DETAIL_CHARS]
    except Exception as second:
        return f"<no message: its __str__ raised {type(second).__name__}>"


def describe(error: BaseException, texts: dict[str, str]) -> str:
    """One short line: type, message (or else the line's own text), place.

    Args:
        error: What was raised.
        texts: Source by file name, as in ``<program>``: the innermost place in one of them is named.
    """
    message = _message(error)
    file, line = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (None, None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in texts:
            file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    if file not in texts or not line:
        return f"{type(error).__name__}: {message}"[:DETAIL_CHARS]
    if not message:
        message = "".join(texts[file].splitlines()[line - 1 : line]).strip()
    place = f" (line {line} of the {file.strip('<>')})"
    return f"{type(error).__name__}: {message}"[: DETAIL_CHARS - len(place)] + place
