"""Values cross as exact builtin data, and nothing else crosses."""

import collections
import enum
import json
import math
import random
import socket
import struct
from typing import Any, NamedTuple, cast

import pytest

from tamis.execution.guest.wire import (
    MAX_DEPTH,
    BadMessageError,
    Decoder,
    Encoder,
    NotDataError,
    parse,
    receive,
    send,
)


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.IntEnum):
    RED = 3


class LyingInt(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __int__(self) -> int:
        return 99

    __hash__ = int.__hash__


class LyingText(str):
    def __str__(self) -> str:
        return "a lie"


class LyingList(list[int]):
    def __iter__(self) -> Any:
        return iter([99])


class LyingDict(dict[str, int]):
    def items(self) -> Any:
        return [("a lie", 1)]


class Node:
    def __init__(self, value: object, next: object = None) -> None:
        self.value, self.next = value, next


class Slotted:
    __slots__ = ("value",)


def refuse(value: object) -> Any:
    raise NotDataError(f"a {type(value).__name__}")


SHAPES = {"Node": Node, "Slotted": Slotted}
ENCODER = Encoder(lambda: SHAPES, refuse)
DECODER = Decoder(lambda: SHAPES, lambda number: f"object {number}")


def cross(value: object) -> Any:
    return DECODER.load(parse(json.dumps(ENCODER.dump(value)).encode()))


def same(a: object, b: object) -> bool:
    """Equal in value and, all the way down, in type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return len(a) == len(b) and all(same(*pair) for pair in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple, collections.deque)):
        assert isinstance(b, (list, tuple, collections.deque))
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))  # type: ignore[arg-type]
    return a == b


VALUES: list[object] = [
    *(None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, -(10**5000), 0.1, -0.0, 5e-324),
    *(math.inf, -math.inf, math.nan, int, str, type(None)),
    *("", "é\0\n", "\ud800", "😀", b"", b"\0\xff", bytearray(b"x"), 1j, complex(-0.0, 2.5)),
    *([], [1, "a", None], [1, 2**70], (), (1,), ((), [()]), {}, {1: 2, "b": [3]}),
    *({(1, (2,)): {4}}, {frozenset({1}): None}),
    *(set(), {1, 2}, frozenset({"a"}), range(3), range(2**70, 5, -2), collections.deque([1, (2,)])),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_data_arrives_as_it_was(value: object) -> None:
    assert same(cross(value), value)
    assert same(cross([value, (value,), {"k": value}]), [value, (value,), {"k": value}])


def grow(draw: random.Random, depth: int) -> object:
    kind = draw.randrange(12 if depth else 6)
    items = [grow(draw, depth - 1) for _ in range(draw.randrange(4))] if kind > 5 else []
    keys = [draw.choice([draw.randrange(9), str(draw.random()), (1, draw.random())]) for _ in items]
    return [
        None, draw.random() < 0.5, draw.randrange(-(2**80), 2**80), draw.gauss(0, 1e9), chr(draw.randrange(0x11000)),
        draw.randbytes(3), items, tuple(items), dict(zip(keys, items, strict=True)), set(keys), frozenset(keys), items,
    ][kind]  # fmt: skip


def test_data_of_any_make_arrives_as_it_was() -> None:
    draw = random.Random(0)
    for _ in range(300):
        value = grow(draw, 4)
        assert same(cross(value), value)


def test_golden_message() -> None:
    assert ENCODER.dump([1, (2.5, None), {"a": {3}}, 2**64]) == {
        "value": [1, {"tuple": [2.5, None]}, {"dict": [["a", {"set": [3]}]]}, {"int": "10000000000000000"}],
        "nodes": [],
    }


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Point(1, 2), (1, 2)),
        (Colour.RED, 3),
        (LyingInt(5), 5),
        (LyingText("true"), "true"),
        (LyingList([1, 2]), [1, 2]),
        (LyingDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    ],
)
def test_subclasses_arrive_as_what_they_hold(value: object, base: object) -> None:
    assert same(cross(value), base)


def test_iterators_arrive_as_iterators() -> None:
    arrived = cross(x * x for x in range(3))
    assert next(arrived) == 0
    assert list(arrived) == [1, 4]


def test_shared_and_circular_nodes_arrive_as_such() -> None:
    a = Node(1)
    a.next = b = Node([2], a)
    first, second = cross([a, b])
    assert type(first) is type(second) is Node
    assert first.next is second
    assert second.next is first
    assert second.value == [2]
    slotted = Slotted()
    slotted.value = (1,)  # type: ignore[attr-defined]
    assert cross(slotted).value == (1,)


@pytest.mark.parametrize(
    "value", [object(), len, type, Point, [object()], {1: print}, {"x": NotImplemented}, (1).__add__]
)
def test_what_is_not_data_is_refused(value: object) -> None:
    with pytest.raises(NotDataError):
        cross(value)


def test_depth_is_limited_on_both_sides() -> None:
    def nest(depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value

    assert cross(nest(MAX_DEPTH // 2)) == nest(MAX_DEPTH // 2)
    circle: list[Any] = []
    circle.append(circle)
    for value in (nest(1000), circle):
        with pytest.raises(NotDataError, match="nested"):
            ENCODER.dump(value)
    with pytest.raises(BadMessageError):
        DECODER.load({"value": nest(500), "nodes": []})
    with pytest.raises(BadMessageError):
        parse(b"[" * 100_000 + b"]" * 100_000)


def test_endless_iterators_are_refused() -> None:
    with pytest.raises(NotDataError, match="iterator of more than"):
        ENCODER.dump(iter(int, 1))


HOSTILE: list[Any] = [
    *({}, {"value": 1}, {"nodes": []}, {"value": {"node": 0}, "nodes": []}),
    *({"value": {"node": 1}, "nodes": [["Node", {}]]}, {"value": 1, "nodes": [["int", {}]]}),
    *({"value": 1, "nodes": [["Node", {"__class__": 1}]]}, {"value": 1, "nodes": [[1, 2]]}),
    *({"value": 1, "nodes": [["Node", []]]}, {"value": 1, "nodes": {"a": 1}}),
    *(
        {"value": value, "nodes": []}
        for value in cast(list[object], [
            {"eval": "1"}, {"list": 3}, {"tuple": "ab"}, {"tuple": {"a": 1}}, {"int": 5}, {"int": "xyz"}, {"dict": [1]},
            {"dict": [[[], 1]]}, {"dict": [[1, 2, 3]]}, {"set": [[1]]}, {"set": [{"dict": []}]}, {"bytes": "0"},
            {"bytes": 3}, {"complex": [[1], 2]}, {"range": [1, 2, 0]}, {"range": ["1"]}, {"a": 1, "tuple": []},
            {"__class__": "int"}, {"fromhex": "00"}, {"type": "type"}, {"type": 3}, {"iterator": 5}, {"node": "0"}, {},
        ])
    ),
]  # fmt: skip


@pytest.mark.parametrize("message", HOSTILE, ids=json.dumps)
def test_hostile_messages_are_refused(message: Any) -> None:
    with pytest.raises(BadMessageError):
        DECODER.load(message)


@pytest.mark.parametrize("body", [b"", b"nope", b"[1]", b"3", b"\xff\xfe", b'{"a":', b"1" * 5000])
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessageError):
        parse(body)


def test_frames() -> None:
    left, right = socket.socketpair()
    with left, right:
        send(left, {"a": "é" * 10})
        assert receive(right) == {"a": "é" * 10}
        send(left, {"b": 1}, [left.fileno()])
        files: list[int] = []
        assert receive(right, files=files) == {"b": 1}
        with socket.socket(fileno=files[0]) as copy:
            assert copy.getsockname() == left.getsockname()
        with pytest.raises(NotDataError, match="over the limit of 10"):
            send(left, {"c": "x" * 100}, max_bytes=10)
        left.sendall((1 << 31).to_bytes(4, "big"))
        with pytest.raises(BadMessageError, match="2147483648 bytes, over the limit of 1000"):
            receive(right, max_bytes=1000)
        left.sendall(b"\0\0\0\7{")
        left.close()
        assert receive(right) is None
