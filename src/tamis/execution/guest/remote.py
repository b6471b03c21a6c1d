"""What stands in the test for the candidate's objects, and what the test may do with each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .link import Link


class Remote:
    """An object in the candidate's process: it can be passed back, and nothing else.

    Names begin with ``_tamis``: all others are the candidate's.
    """

    def __init__(self, link: Link, number: int, kind: str) -> None:
        self.__dict__.update(_tamis_link=link, _tamis_number=number, _tamis_kind=kind)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Refuses, but for names of Python's own: they are looked for to see what an object can do."""
        if name.startswith("__"):
            raise AttributeError(name)
        self._tamis_refuse()

    def _tamis_refuse(self, *_: object) -> NoReturn:
        link: Link = self._tamis_link
        link.fail("unsupported", f"the answer is an object of type {self._tamis_kind}, which is not data")

    # What Python would otherwise answer for every object. All other operations it refuses by itself.
    __eq__ = __ne__ = __hash__ = __bool__ = __str__ = __repr__ = __format__ = _tamis_refuse
    __setattr__ = __delattr__ = _tamis_refuse


class RemoteFunction(Remote):
    """A callable in the candidate's process."""

    def __call__(self, *arguments: object, **named: object) -> Any:  # noqa: ANN401
        """Calls it in the candidate's process."""
        return self._tamis_link.ask(self, self._tamis_link.dump((arguments, named)))

    __instancecheck__ = __subclasscheck__ = Remote._tamis_refuse


class RemoteInstance(RemoteFunction):
    """An instance of a class under test: its methods, attributes and items may be used.

    Whether it equals another, is less or more than it, or what their sum is, would be the candidate's to say.
    """

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Reads an attribute in the candidate's process; methods are remembered."""
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._tamis_link.ask(self, {"attribute": name})
        if type(value) is RemoteFunction:
            self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:  # type: ignore[override]
        """Sets an attribute in the candidate's process."""
        self._tamis_link.ask(self, {"attribute": name} | self._tamis_link.dump(value))
        self.__dict__.pop(name, None)

    def _tamis_apply(self, operator: str, *operands: object) -> Any:  # noqa: ANN401
        return self._tamis_link.ask(self, {"operator": operator} | self._tamis_link.dump(operands))

    def __len__(self) -> Any:  # noqa: ANN401
        """The length that the candidate gives."""
        return self._tamis_apply("len")

    def __iter__(self) -> Any:  # noqa: ANN401
        """All items at once."""
        return self._tamis_apply("iter")

    def __contains__(self, item: object) -> Any:  # noqa: ANN401
        """Membership as the candidate sees it."""
        return self._tamis_apply("contains", item)

    def __getitem__(self, key: object) -> Any:  # noqa: ANN401
        """The item that the candidate gives."""
        return self._tamis_apply("getitem", key)

    def __setitem__(self, key: object, value: object) -> None:
        """Sets an item in the candidate's process."""
        self._tamis_apply("setitem", key, value)

    def __delitem__(self, key: object) -> None:
        """Deletes an item in the candidate's process."""
        self._tamis_apply("delitem", key)


# Of an instance, Python would say that it has no such operation, though the candidate may well have written one.
OPERATIONS = (
    "lt le gt ge add radd sub rsub mul rmul matmul truediv rtruediv floordiv mod pow and or xor neg pos invert abs "
    "int float index round enter exit reversed"
)
for _operation in OPERATIONS.split():
    setattr(RemoteInstance, f"__{_operation}__", Remote._tamis_refuse)


class RemoteClass(RemoteInstance):
    """A class under test."""

    def __call__(self, *arguments: object, **named: object) -> Any:  # noqa: ANN401
        """Makes an instance in the candidate's process."""
        link: Link = self._tamis_link
        answer = link.ask(self, link.dump((arguments, named)))
        if isinstance(answer, Remote) and not isinstance(answer, RemoteInstance):
            answer = RemoteInstance(link, answer._tamis_number, answer._tamis_kind)
            link.instances[answer._tamis_number] = answer
        return answer
