"""Runs Python that a model wrote, and says whether it passes its test.

    with Sandbox(workers=2) as sandbox:
        verdicts = sandbox.run_many([humaneval(problem, completion) for completion in completions])

Nothing here imports torch: each worker is a small, clean interpreter of its own.
"""

from .benchmarks import humaneval, mbpp
from .extraction import extract_code
from .probing import probe
from .programs import Limits, Program, Status, Verdict
from .sandbox import Sandbox, SandboxClosedError

__all__ = [
    "Limits",
    "Program",
    "Sandbox",
    "SandboxClosedError",
    "Status",
    "Verdict",
    "extract_code",
    "humaneval",
    "mbpp",
    "probe",
]
