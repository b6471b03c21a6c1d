"""What goes into the sandbox (programs and limits) and what comes out of it (verdicts)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class Status(StrEnum):
    """How one program ended."""

    PASSED = "passed"
    """The program and its whole test ran to the end."""
    FAILED = "failed"
    """The test raised AssertionError: the answer is wrong."""
    ERROR = "error"
    """Anything else was raised, by the program or by the test: SyntaxError, TypeError, SystemExit..."""
    TIMEOUT = "timeout"
    """The CPU limit, or the generous wall limit behind it, was reached."""
    MEMORY = "memory"
    """The memory limit was reached."""
    CRASHED = "crashed"
    """The process ended without a verdict: a segmentation fault, ``os._exit``..."""
    INTERNAL = "internal"
    """Two workers in a row were lost. Says nothing about the program: do not count it as wrong."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_s: CPU time in seconds. This one decides on ``timeout``, so a busy machine changes no verdict.
        wall_s: Wall time in seconds: the back-stop for programs that sleep or wait.
        memory_mb: Address space in MiB (not enforced by macOS).
        file_mb: Size of any one file that it writes, in MiB.
        open_files: Number of open files.
        source_kb: Length of ``Program.source`` in KiB of UTF-8; a longer one is an ``error`` without being run.

    Raises:
        ValueError: A limit is not above zero.
    """

    cpu_s: float = 3.0
    wall_s: float = 10.0
    memory_mb: int = 1024
    file_mb: int = 1
    open_files: int = 32
    source_kb: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= 0:
                raise ValueError(f"Limits.{field.name} is {value}; it must be above 0 (default: {field.default}).")


@dataclass(frozen=True)
class Program:
    """One candidate and the code that judges it.

    Attributes:
        source: The candidate's code: untrusted.
        test: Code that is run after it in the same namespace, and raises if the candidate is wrong.
    """

    source: str
    test: str


@dataclass(frozen=True)
class Verdict:
    """How a program ended, and what it cost.

    Attributes:
        status: The outcome.
        detail: A short reason: exception type, message and line. Empty when passed.
        cpu_s: CPU time used, in seconds.
        wall_s: Wall time used, in seconds.
        level: The isolation that was really on (``Sandbox.level``).
    """

    status: Status
    detail: str
    cpu_s: float
    wall_s: float
    level: str

    @property
    def passed(self) -> bool:
        """Whether the program passed its test."""
        return self.status is Status.PASSED
