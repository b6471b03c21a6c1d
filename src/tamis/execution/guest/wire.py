"""How the sandbox's processes talk: framed JSON messages, and values as tagged plain data.

What arrives is rebuilt to exact builtin types. Nothing that is sent can name code, so the worst that a hostile message
does is to be refused.
"""

from __future__ import annotations

import collections.abc
import itertools
import json
import socket
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Message = dict[str, Any]

MAX_DEPTH = 60  # of nested containers; far above any benchmark, far below the interpreter's own limit
PLAIN = frozenset({type(None), bool, str, float})
SCALARS = PLAIN | {int}
TYPES = {
    cls.__name__: cls for cls in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple, type(None))
}
SAFE_INT = 1 << 63  # larger ones travel as hexadecimal: reading long decimals takes quadratic time
MAX_ITEMS = 100_000  # of an iterator, which may be endless


class BadMessageError(ValueError):
    """A message that is too long or does not follow the format."""


class NotDataError(TypeError):
    """A value that cannot be sent."""


# ---- messages --------------------------------------------------------------------------------------------------------


def send(
    channel: socket.socket, message: Message, descriptors: Sequence[int] = (), max_bytes: int | None = None
) -> None:
    """Writes one message, four bytes of length and then JSON, with open files beside it if there are any.

    Raises:
        NotDataError: It is longer than ``max_bytes``; nothing was written.
    """
    body = json.dumps(message).encode()
    if max_bytes is not None and len(body) > max_bytes:
        raise NotDataError(f"{len(body)} bytes long, over the limit of {max_bytes}")
    header = len(body).to_bytes(4, "big")
    if descriptors:
        socket.send_fds(channel, [header], descriptors)
        channel.sendall(body)
    else:
        channel.sendall(header + body)


def receive(
    channel: socket.socket, deadline: float | None = None, max_bytes: int | None = None, files: list[int] | None = None
) -> Message | None:
    """Reads one message; None when the other side has gone.

    Args:
        channel: The socket to read from.
        deadline: ``time.monotonic()`` in seconds at which to give up; None waits for ever.
        max_bytes: The longest message to take; None takes any.
        files: Open files that come with the message are added to this list; None refuses them.

    Raises:
        TimeoutError: The deadline passed.
        BadMessageError: The message is too long, or not a JSON object.
    """
    header = _receive_header(channel, deadline, files)
    if header is None:
        return None
    size = int.from_bytes(header, "big")
    if max_bytes is not None and size > max_bytes:
        raise BadMessageError(f"a message of {size} bytes, over the limit of {max_bytes}")
    body = _receive_exactly(channel, size, deadline)
    if body is None:
        return None
    return parse(body)


def parse(body: bytes) -> Message:
    """The message of a frame.

    Raises:
        BadMessageError: It is not a JSON object.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadMessageError(f"not JSON: {error}") from None
    if type(message) is not dict:
        raise BadMessageError("not a JSON object")
    return message


def _receive_header(channel: socket.socket, deadline: float | None, files: list[int] | None) -> bytes | None:
    if files is None:
        return _receive_exactly(channel, 4, deadline)
    header, descriptors, _, _ = socket.recv_fds(channel, 4, 4)
    files += descriptors
    rest = _receive_exactly(channel, 4 - len(header), deadline) if header else None
    return None if rest is None else header + rest


def _receive_exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes | None:
    chunks, missing = [], size
    while missing:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = channel.recv(min(missing, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


# ---- values ----------------------------------------------------------------------------------------------------------


class Encoder:
    """Turns values into JSON data, subclasses into their builtin base.

    Args:
        shapes: Gives the classes, by name, whose instances are sent attribute by attribute.
        refer: Gives what is sent, as ``{"object": ...}``, for a value that is not data, or raises ``NotDataError``.
    """

    def __init__(self, shapes: Callable[[], Mapping[str, type]], refer: Callable[[object], Any]) -> None:
        self._shapes, self._refer = shapes, refer

    def dump(self, value: object) -> Message:
        """The value, with a table of the shapes' instances in it, so that shared and circular ones arrive as such."""
        self._names = {cls: name for name, cls in self._shapes().items()}
        self._indices: dict[int, int] = {}
        self._instances: list[object] = []
        data = self._encode(value, 0)
        nodes: list[Any] = []
        while len(nodes) < len(self._instances):  # step by step, not nested: lists may have thousands of nodes
            instance = self._instances[len(nodes)]
            attributes = {name: self._encode(item, 0) for name, item in _attributes(instance).items()}
            nodes.append([self._names[type(instance)], attributes])
        return {"value": data, "nodes": nodes}

    def _encode(self, value: object, depth: int) -> Any:  # noqa: ANN401 - JSON
        kind = type(value)
        if kind in PLAIN:
            return value
        if depth > MAX_DEPTH:
            raise NotDataError(f"containers nested more than {MAX_DEPTH} deep")
        if kind is list:
            return self._items(value, depth)  # type: ignore[arg-type]
        if kind in self._names:
            return {"node": self._index(value)}
        for base, encode in ENCODINGS:
            if isinstance(value, base):
                return encode(self, value, depth + 1)
        if any(value is cls for cls in TYPES.values()):
            return {"type": value.__name__}  # type: ignore[attr-defined]
        if isinstance(value, collections.abc.Iterator):
            items = list(itertools.islice(value, MAX_ITEMS + 1))
            if len(items) > MAX_ITEMS:
                raise NotDataError(f"an iterator of more than {MAX_ITEMS} items")
            return {"iterator": self._items(items, depth + 1)}
        return {"object": self._refer(value)}

    def _items(self, values: Sequence[object], depth: int) -> list[Any]:
        kinds = set(map(type, values))
        if kinds <= PLAIN or (kinds == {int} and _all_safe(values)):
            return list(values)  # at the speed of C: answers may have a million numbers
        return [self._encode(value, depth + 1) for value in values]

    def _index(self, instance: object) -> int:
        if id(instance) not in self._indices:
            self._indices[id(instance)] = len(self._instances)
            self._instances.append(instance)
        return self._indices[id(instance)]


def _all_safe(numbers: Any) -> bool:  # noqa: ANN401
    return bool(min(numbers) >= -SAFE_INT and max(numbers) < SAFE_INT)


def _attributes(instance: object) -> dict[str, object]:
    names = list(getattr(instance, "__dict__", ()))
    for cls in type(instance).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return {name: getattr(instance, name) for name in names if hasattr(instance, name)}


def _encode_int(_encoder: Encoder, value: Any, _depth: int) -> Any:  # noqa: ANN401
    number = int.__int__(value)
    return number if -SAFE_INT <= number < SAFE_INT else {"int": int.__format__(number, "x")}


def _encode_dict(encoder: Encoder, value: Any, depth: int) -> Any:  # noqa: ANN401
    return {"dict": [[encoder._encode(k, depth), encoder._encode(v, depth)] for k, v in dict.items(value)]}


def _sequence(tag: str, base: Any) -> Callable[[Encoder, Any, int], Any]:  # noqa: ANN401
    return lambda encoder, value, depth: {tag: encoder._items(list(base.__iter__(value)), depth)}


# The base's own methods are called, so that a subclass arrives as what it holds, not as what it says.
ENCODINGS: tuple[tuple[type, Callable[[Encoder, Any, int], Any]], ...] = (
    (int, _encode_int),
    (tuple, _sequence("tuple", tuple)),
    (dict, _encode_dict),
    (set, _sequence("set", set)),
    (frozenset, _sequence("frozenset", frozenset)),
    (str, lambda _encoder, value, _depth: str.__str__(value)),
    (float, lambda _encoder, value, _depth: float.__float__(value)),
    (list, _sequence("list", list)),
    (bytes, lambda _encoder, value, _depth: {"bytes": bytes.hex(value)}),
    (bytearray, lambda _encoder, value, _depth: {"bytearray": bytearray.hex(value)}),
    (complex, lambda _encoder, value, _depth: {"complex": [value.real, value.imag]}),
    (range, lambda encoder, value, depth: {"range": encoder._items([value.start, value.stop, value.step], depth)}),
    (collections.deque, _sequence("deque", collections.deque)),
    (type({}.keys()), lambda encoder, value, depth: {"keys": encoder._items(list(value), depth)}),
    (type({}.values()), lambda encoder, value, depth: {"values": encoder._items(list(value), depth)}),
    (type({}.items()), lambda encoder, value, depth: {"items": encoder._items(list(value), depth)}),
)


class Decoder:
    """Rebuilds values from JSON data, to exact builtin types.

    Args:
        shapes: Gives the classes, by name, that may be rebuilt attribute by attribute.
        recall: Gives the object for what the other side sent as ``{"object": ...}``.
    """

    def __init__(self, shapes: Callable[[], Mapping[str, type]], recall: Callable[[Any], object]) -> None:
        self._shapes, self._recall = shapes, recall

    def load(self, message: Message) -> Any:  # noqa: ANN401 - any data
        """The value of a message that ``Encoder.dump`` made.

        Raises:
            BadMessageError: It does not follow the format.
        """
        try:
            shapes = self._shapes()
            nodes = message["nodes"]
            self._nodes: list[object] = [object.__new__(shapes[name]) for name, _ in nodes]
            for instance, (_, attributes) in zip(self._nodes, nodes, strict=True):
                for name, item in attributes.items():
                    _refuse_unless_data(type(instance), name)
                    object.__setattr__(instance, name, self._decode(item, 0))  # a frozen dataclass, too
            return self._decode(message["value"], 0)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BadMessageError(f"malformed data ({type(error).__name__})") from None

    def _decode(self, data: Any, depth: int) -> Any:  # noqa: ANN401
        kind = type(data)
        if kind in SCALARS:
            return data
        if depth > MAX_DEPTH + 1:
            raise BadMessageError("nested too deep")
        if kind is list:
            return self._items(data, depth)
        ((tag, content),) = data.items()
        return self._tagged(tag, content, depth + 1)

    def _items(self, data: list[Any], depth: int) -> list[Any]:
        if type(data) is not list:
            raise BadMessageError("not a list")
        return data if set(map(type, data)) <= SCALARS else [self._decode(item, depth + 1) for item in data]

    def _tagged(self, tag: str, content: Any, depth: int) -> Any:  # noqa: ANN401
        if tag == "int":
            return int(content, 16)
        if tag == "dict":
            return {self._decode(key, depth): self._decode(item, depth) for key, item in content}
        if tag in ("bytes", "bytearray"):
            return getattr(BUILDERS[tag], "fromhex")(content)  # noqa: B009 - both have it, their union does not
        if tag == "node":
            return self._nodes[range(len(self._nodes))[content]]
        if tag == "type":
            return TYPES[content]
        if tag == "object":
            return self._recall(content)
        if tag in ("complex", "range"):
            return BUILDERS[tag](*self._items(content, depth))
        return BUILDERS[tag](self._items(content, depth))


def _refuse_unless_data(cls: type, name: str) -> None:
    """Refuses an attribute that would stand before a method or property of its class."""
    own = getattr(cls, name, None)
    if name.startswith("__") or (hasattr(type(own), "__get__") and type(own) is not types.MemberDescriptorType):
        raise BadMessageError("not an attribute of data")


BUILDERS: dict[str, Callable[..., Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "list": list,
    "deque": collections.deque,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: dict(items).items(),
    "iterator": iter,
    "bytes": bytes,
    "bytearray": bytearray,
    "complex": complex,
    "range": range,
}
