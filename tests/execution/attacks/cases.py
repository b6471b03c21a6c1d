"""What a case of the attack suite is: a program, and how it may end."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template

from tamis.execution import Program, Status

POWER = """
def check(candidate):
    assert candidate(2, 3) == 8
    assert candidate(5, 2) == 25
    assert candidate(10, 4) == 10000

check(power)
"""
"""The test of most cases. It is long enough that no constant passes it."""

TABLE = """
CASES = [((2, 3), 8), ((5, 2), 25), ((10, 4), 10000)]
for arguments, expected in CASES:
    assert power(*arguments) == expected
"""
"""The same with the expected values in a table, as reading them out of memory is easiest there."""

HARMLESS_ENDS = frozenset(Status) - {Status.PASSED, Status.INTERNAL}
"""How a wrong or abusive program may end: it must not pass, and it must not cost the sandbox a worker twice."""


@dataclass(frozen=True)
class Case:
    """One program of the suite.

    Attributes:
        name: The test's id.
        source: The program. ``$NAME`` stands for a fact of the machine, filled in by ``program``.
        test: What judges it.
        prelude: Trusted code before the test.
        names: As in ``Program``.
        shapes: As in ``Program``.
        ends: The statuses that are right.
        fools_in_process: Whether the trick works where program and test share a process and no exception means passed.
        quick: Whether it ends at once. The others run into a limit.
    """

    name: str
    source: str
    test: str = POWER
    prelude: str = ""
    names: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    ends: frozenset[Status] = HARMLESS_ENDS
    fools_in_process: bool = False
    quick: bool = True

    def program(self, facts: Mapping[str, object] | None = None) -> Program:
        """The program to run.

        Args:
            facts: What ``$NAMES`` in the source stand for; None leaves the source as it is.
        """
        source = textwrap.dedent(self.source)
        if facts is not None:
            source = Template(source).safe_substitute(facts)
        test, prelude = textwrap.dedent(self.test), textwrap.dedent(self.prelude)
        return Program(source, test, prelude=prelude, names=self.names, shapes=self.shapes)
