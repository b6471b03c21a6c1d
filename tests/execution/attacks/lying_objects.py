"""Wrong answers that are objects of the program's own: their class, truth, length and attributes lie."""

from __future__ import annotations

from .cases import Case

PRIME = """
assert is_prime(7)
assert not is_prime(8)
assert is_prime(13)
assert not is_prime(21)
"""
REVERSED = """
assert backwards([1, 2, 3]) == [3, 2, 1]
assert backwards([4, 5]) == [5, 4]
"""
SORT = """
data = [3, 1, 2]
assert in_order(data) == sorted(data)
"""

LYING_OBJECTS = (
    Case(
        "claims another class",
        """
        class Lie:
            __class__ = int
            def __eq__(self, other): return True
        def power(a, b): return Lie()
        """,
        """
        answer = power(2, 3)
        assert isinstance(answer, int)
        assert answer == 8
        """,
        fools_in_process=True,
    ),
    Case(
        "changes its class before it is compared",
        """
        class Honest: pass
        class Liar:
            def __eq__(self, other): return True
        def power(a, b):
            answer = Honest()
            answer.__class__ = Liar
            return answer
        """,
        fools_in_process=True,
    ),
    Case(
        "class that is equal to everything",
        """
        class Meta(type):
            def __eq__(cls, other): return True
            __hash__ = type.__hash__
        class Answer(metaclass=Meta): pass
        def power(a, b): return Answer
        """,
        fools_in_process=True,
    ),
    Case(
        "entry point is a class whose objects are equal to everything",
        """
        class power:
            def __init__(self, a, b): pass
            def __eq__(self, other): return True
            def __ne__(self, other): return False
        """,
        fools_in_process=True,
    ),
    Case(
        "entry point is a class that makes wrong ints",
        """
        class power(int):
            def __new__(cls, a, b): return int.__new__(cls, 8)
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        """,
        fools_in_process=True,
    ),
    Case(
        "entry point is an object that returns itself",
        """
        class Lie:
            def __call__(self, *arguments): return self
            def __eq__(self, other): return True
        power = Lie()
        """,
        fools_in_process=True,
    ),
    Case(
        "method of a test-made object returns the object",
        """
        class Stack:
            def push(self, value): return self
            def size(self): return self
            def __eq__(self, other): return True
            def __bool__(self): return True
        """,
        """
        stack = Stack()
        stack.push(4)
        assert stack.size() == 1
        assert stack.push(5) == 5
        """,
        fools_in_process=True,
    ),
    Case(
        "attribute of a test-made object is equal to everything",
        """
        class Equal:
            def __eq__(self, other): return True
        class Stack:
            size = Equal()
            def push(self, value): pass
        """,
        """
        stack = Stack()
        stack.push(4)
        assert stack.size == 1
        """,
        fools_in_process=True,
    ),
    Case(
        "length of a test-made object lies as the caller wants it",
        """
        class Size(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        class Stack:
            def __len__(self): return 0
            def __iter__(self): return iter([Size(0)])
            def __getitem__(self, index): return Size(0)
            def __contains__(self, value): return True
        """,
        """
        stack = Stack()
        assert 4 in stack
        assert stack[0] == 4
        assert len(stack) == 1
        """,
    ),
    Case(
        "global that is equal to everything",
        """
        class Equal:
            def __eq__(self, other): return True
        ANSWER = Equal()
        """,
        "assert ANSWER == 42\n",
        fools_in_process=True,
    ),
    Case(
        "truth that reads which jump asks for it",
        """
        import dis, sys
        class Lie:
            def __bool__(self):
                frame = sys._getframe(1)
                return dis.opname[frame.f_code.co_code[frame.f_lasti]].endswith("IF_TRUE")
        def is_prime(n): return Lie()
        """,
        PRIME,
        fools_in_process=True,
    ),
    Case(
        "class whose truth alternates",
        """
        class is_prime:
            turn = False
            def __init__(self, n): pass
            def __bool__(self):
                is_prime.turn = not is_prime.turn
                return is_prime.turn
        """,
        PRIME,
        fools_in_process=True,
    ),
    Case(
        "True where one is asked for",
        "def power(a, b): return True",
        """
        assert repr(power(3, 0)) == '1'
        assert type(power(1, 5)) is int
        """,
    ),
    Case("not a number", "def power(a, b): return float('nan')"),
    Case(
        "argument emptied in place",
        """
        def in_order(values):
            values.clear()
            return values
        """,
        SORT,
        fools_in_process=True,
    ),
    Case(
        "argument grown into the answer",
        """
        class Equal:
            def __eq__(self, other): return True
        def tidy(table):
            for key in table: table[key] = Equal()
            return {}
        """,
        """
        table = {'a': 3}
        tidy(table)
        assert table == {'a': 4}
        """,
        fools_in_process=True,
    ),
    Case(
        "iterator that is equal to everything",
        """
        class Lie:
            def __iter__(self): return self
            def __next__(self): raise StopIteration
            def __eq__(self, other): return True
        def backwards(values): return Lie()
        """,
        REVERSED,
        fools_in_process=True,
    ),
    Case(
        "node of a list with lying attributes",
        """
        class Equal:
            def __eq__(self, other): return True
        class Node:
            def __init__(self, value=0, next=None): self.value, self.next = value, next
        def second(head): return Node(Equal())
        """,
        "assert second(Node(1, Node(2))).value == 2\n",
        prelude="""
        class Node:
            def __init__(self, value=0, next=None): self.value, self.next = value, next
        """,
        names=("second",),
        shapes=("Node",),
        fools_in_process=True,
    ),
    Case(
        "setter that sets nothing",
        """
        class Account:
            @property
            def limit(self): return 0
            @limit.setter
            def limit(self, value): pass
        """,
        """
        account = Account()
        account.limit = 5
        assert account.limit == 5
        """,
    ),
    Case(
        "no method of that name",
        "class Account: pass\n",
        """
        account = Account()
        try:
            account.draw(5)
        except ValueError:
            pass
        """,
    ),
    Case(
        "object where something to iterate over is asked for",
        "def parts(text): return object()\n",
        """
        from collections.abc import Iterable, Sized
        assert isinstance(parts('a b'), (Iterable, Sized))
        """,
    ),
    Case(
        "object where something with a length is asked for",
        "def parts(text): return object()\n",
        """
        answer = parts('a b')
        assert hasattr(answer, '__len__') and hasattr(answer, '__getitem__')
        """,
    ),
    Case(
        "claims the class that is asked for",
        """
        class Lie:
            __class__ = dict
            def keys(self): return {'a', 'b'}
            def __getitem__(self, key): return 1
        def count(text): return Lie()
        """,
        """
        answer = count('ab')
        assert isinstance(answer, dict)
        assert answer.keys() == {'a', 'b'}
        assert {**answer} == {'a': 1, 'b': 1}
        """,
        fools_in_process=True,
    ),
    Case(
        "object that the failing assert tells of",
        "def power(a, b): return object()\n",
        "answer = power(2, 3)\nassert isinstance(answer, int), answer\nassert answer == 8\n",
    ),
    Case(
        "object that the test raises",
        "def power(a, b): return object()\n",
        "answer = power(2, 3)\nif type(answer) is not int: raise ValueError(answer)\nassert answer == 8\n",
    ),
    Case(
        "object that is left as the code of an exit",
        "def power(a, b): return object()\n",
        "answer = power(2, 3)\nif type(answer) is not int: raise SystemExit(answer)\nassert answer == 8\n",
    ),
    Case(
        "pickles itself as a call",
        """
        import os
        class Lie:
            def __reduce__(self): return os._exit, (0,)
            def __getstate__(self): os._exit(0)
        def power(a, b): return Lie()
        """,
    ),
)
