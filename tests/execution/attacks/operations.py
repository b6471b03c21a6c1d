"""A right class, whose objects the test uses by operators. Where that cannot be judged, it must not look wrong."""

from __future__ import annotations

from tamis.execution import Status

from .cases import Case

BAG = """
class Bag:
    def __init__(self, *items): self.items = list(items)
    def __len__(self): return len(self.items)
    def __bool__(self): return bool(self.items)
    def __iter__(self): return iter(self.items)
    def __contains__(self, item): return item in self.items
    def __getitem__(self, index): return self.items[index]
    def __setitem__(self, index, item): self.items[index] = item
    def __delitem__(self, index): del self.items[index]
    def __call__(self, item): return self.items.count(item)
    def __str__(self): return f"Bag of {len(self.items)}"
    def __repr__(self): return f"Bag({', '.join(map(repr, self.items))})"
    def __eq__(self, other): return isinstance(other, Bag) and self.items == other.items
    def __hash__(self): return hash(tuple(self.items))
    def __lt__(self, other): return len(self) < len(other)
    def __add__(self, other): return Bag(*self.items, *other.items)
    def __neg__(self): return Bag(*reversed(self.items))
    def __enter__(self): return self
    def __exit__(self, *error): self.items.clear()
    def __del__(self): pass
"""
USES = {
    "length": "assert len(Bag(1, 2)) == 2",
    "truth": "assert Bag(1) and not Bag()",
    "iteration": "assert [x for x in Bag(1, 2)] == [1, 2] and list(Bag(3)) == [3]",
    "membership": "assert 2 in Bag(1, 2) and 3 not in Bag(1, 2)",
    "items": "assert Bag(5, 6)[1] == 6",
    "items set": "bag = Bag(5, 6)\nbag[0] = 7\nassert bag.items == [7, 6]",
    "items deleted": "bag = Bag(5, 6)\ndel bag[0]\nassert bag.items == [6]",
    "call": "bag = Bag(5, 5)\nassert bag(5) == 2",
    "text": "assert str(Bag(1)) == 'Bag of 1' and f'{Bag()}' == 'Bag of 0'",
    "representation": "assert repr(Bag(1, 'a')) == \"Bag(1, 'a')\"",
    "equality": "assert Bag(1) == Bag(1) and Bag(1) != Bag(2)",
    "order": "assert Bag(1) < Bag(1, 2) and sorted([Bag(1, 2), Bag(1)])[0].items == [1]",
    "sum": "assert (Bag(1) + Bag(2)).items == [1, 2]",
    "sign": "assert (-Bag(1, 2)).items == [2, 1]",
    "context": "with Bag(1) as bag:\n    assert bag.items == [1]",
    "kind": "assert isinstance(Bag(), Bag)",
    "attribute deleted": "bag = Bag(1)\ndel bag.items\nassert not hasattr(bag, 'items')",
    "set of objects": "assert len({Bag(1), Bag(1)}) == 1",
}
OPERATIONS = tuple(
    Case(name, BAG, use + "\n", ends=frozenset({Status.PASSED, Status.UNSUPPORTED})) for name, use in USES.items()
)
