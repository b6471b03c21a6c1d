"""Wrong answers in objects that cross attribute by attribute."""

from __future__ import annotations

from .cases import Case
from .messages import FRAME

NODES = (
    Case(
        "attribute of a node that stands before a method of its class",
        """
        class Node:
            def __init__(self, value): self.value = value
            def holds(self, value): return self.value == value
        def make(value):
            node = Node(0)
            node.holds = lambda value: True
            return node
        """,
        """
        assert make(4).holds(4)
        assert make(7).holds(7)
        """,
        prelude="""
        class Node:
            def __init__(self, value): self.value = value
            def holds(self, value): return self.value == value
        """,
        names=("make",),
        shapes=("Node",),
        fools_in_process=True,
    ),
    Case(
        "attribute of a node that stands before what its class would work out",
        """
        class Node:
            def __init__(self, value): self.value = value
        def make(value):
            node = Node(0)
            node.sound = True
            return node
        """,
        "assert make(1).sound\nassert make(1).sound is True\n",
        prelude="""
        import functools
        class Node:
            def __init__(self, value): self.value = value
            @functools.cached_property
            def sound(self): return self.value == 1
        """,
        names=("make",),
        shapes=("Node",),
        fools_in_process=True,
    ),
    Case(
        "attribute True of a node where its class has a method",
        """
        class Node:
            def __init__(self, value): self.value = value
            def sound(self): return self.value == 1
        def make(value):
            node = Node(0)
            node.sound = True
            return node
        """,
        """
        node = make(1)
        assert node.sound
        assert node.sound()
        """,
        prelude="""
        class Node:
            def __init__(self, value): self.value = value
            def sound(self): return self.value == 1
        """,
        names=("make",),
        shapes=("Node",),
    ),
    Case(
        "node that says its class is another",
        FRAME + "class Node: pass\ndef make(value):\n"
        "    write(frame(value_of(value)))\n    return Node()\n"
        "def value_of(value):\n    forged = {'__class__': {'object': [0, True, 'f']}}\n"
        "    return {'value': {'node': 0}, 'nodes': [['Node', forged]]}\n",
        """
        try:
            node = make(4)
        except Exception:
            node = None
        assert node is None or node.value == 4
        """,
        prelude="""
        class Node:
            value = 0
        """,
        names=("make",),
        shapes=("Node",),
    ),
)
