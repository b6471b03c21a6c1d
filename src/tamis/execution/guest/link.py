"""The line from a test to its candidate: questions and arguments go out, answers and exceptions come back."""

from __future__ import annotations

import builtins
import os
import select
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from .candidate import DETAIL_CHARS
from .remote import Remote, RemoteClass, RemoteFunction
from .wire import SCALARS, BadMessageError, Decoder, Encoder, Message, NotDataError, receive, send

# Groups cannot be made of a message alone. The others would end a loop of the test as if all had been seen.
NOT_RAISED_AGAIN = (BaseExceptionGroup, StopIteration, StopAsyncIteration, GeneratorExit)


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
        self.instances: dict[int, Remote] = {}
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
                bound[name] = RemoteClass(self, value._tamis_number, value._tamis_kind)
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
        if number in self.instances:  # as when a method returns its own object
            return self.instances[number]
        return (RemoteFunction if is_callable else Remote)(self, number, kind[:40])


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
