"""What goes into the sandbox (programs and limits) and what comes out of it (verdicts)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class Status(StrEnum):
    """How one program ended."""

    PASSED = "passed"
    """The whole test ran to its end, it asked the program at least once, and every answer arrived as it should."""
    FAILED = "failed"
    """The test raised AssertionError: the answer is wrong."""
    ERROR = "error"
    """Anything else was raised, by the program or by the test: SyntaxError, TypeError, SystemExit..."""
    TIMEOUT = "timeout"
    """The CPU limit, or the generous wall limit behind it, was reached."""
    MEMORY = "memory"
    """The memory limit was reached."""
    CRASHED = "crashed"
    """The program's process ended or broke the protocol: a segmentation fault, ``os._exit``, a forged message..."""
    UNSUPPORTED = "unsupported"
    """The program answered with something that is not plain data, so that it cannot be compared safely."""
    INTERNAL = "internal"
    """Two workers in a row were lost. Says nothing about the program: do not count it as wrong."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. Where the machine's hard limits are lower, those hold.

    Attributes:
        cpu_s: CPU time in seconds. This one decides on ``timeout``, so a busy machine changes no verdict.
        wall_s: Wall time in seconds: the generous back-stop for programs that sleep or wait.
        memory_mb: Address space in MiB (not enforced by macOS).
        file_mb: Size of any one file that it writes, in MiB.
        open_files: Number of open files.
        reply_mb: Size of one answer to the test, in MiB.
        source_kb: Length of ``Program.source`` in KiB of UTF-8; a longer one is an ``error`` without being run.

    Raises:
        ValueError: A limit is not above zero.
    """

    cpu_s: float = 3.0
    wall_s: float = 30.0
    memory_mb: int = 1024
    file_mb: int = 1
    open_files: int = 32
    reply_mb: int = 4
    source_kb: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise ValueError(f"Limits.{field.name} is {value}; it must be above 0 (default: {field.default}).")


@dataclass(frozen=True)
class Program:
    """One candidate and the code that judges it. They run in two processes, and meet as data.

    The test calls the candidate's functions by name; arguments and answers are copied between the processes, as exact
    builtin types. So a change that the candidate makes to its arguments does not show, and a callable cannot be passed.

    Attributes:
        source: The candidate's code: untrusted.
        test: Trusted code, run in a process that the candidate cannot reach; it raises if the candidate is wrong.
        prelude: Trusted code, run before the test in its process: imports, helpers.
        names: What the test may use of the candidate: functions, classes and plain values. They win over those of the
            prelude. Empty: all that the test uses and neither the prelude, the test nor Python's builtins define.
        classes: Those of the names that are classes: the test may use the methods and attributes of their instances.
            Any other object that the candidate returns can only be called or passed back, for its methods could say
            what the test would like to hear. None: the names that begin with a capital letter.
        shapes: Classes that cross as data, attribute by attribute (nodes of lists and trees, say). ``source`` and
            ``prelude`` must both define them.
        extracted: False if no code was found in the model's answer, so that ``source`` is the answer as it came.
    """

    source: str
    test: str
    prelude: str = ""
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    shapes: tuple[str, ...] = ()
    extracted: bool = True


@dataclass(frozen=True)
class Verdict:
    """How a program ended, and what it cost.

    Attributes:
        status: The outcome.
        detail: A short reason: exception type, message and line. Empty when passed.
        cpu_s: CPU time that the candidate used, in seconds.
        wall_s: Wall time used, in seconds.
        level: The isolation that was really on (``Sandbox.level``).
        calls: How often the test asked the candidate something.
    """

    status: Status
    detail: str
    cpu_s: float
    wall_s: float
    level: str
    calls: int = 0

    @property
    def passed(self) -> bool:
        """Whether the program passed its test."""
        return self.status is Status.PASSED
