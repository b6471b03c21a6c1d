"""Runs Python that a model wrote, and says whether it passes its test.

    with Sandbox(workers=2) as sandbox:
        verdicts = sandbox.run_many([humaneval(problem, completion) for completion in completions])

A program and its test run in two processes of their own, so that no program can reach its verdict. Nothing here
imports torch: both are forked by small, clean interpreters.
"""

from .benchmarks import PromptStyle, benchmark_of, humaneval, leetcode, mbpp, program, task_prompt
from .extraction import extract_code, find_code
from .levels import SandboxUnavailableError
from .probing import probe
from .programs import Limits, Program, Status, Verdict
from .sandbox import Sandbox, SandboxClosedError

__all__ = [
    "Limits",
    "Program",
    "PromptStyle",
    "Sandbox",
    "SandboxClosedError",
    "SandboxUnavailableError",
    "Status",
    "Verdict",
    "benchmark_of",
    "extract_code",
    "find_code",
    "humaneval",
    "leetcode",
    "mbpp",
    "probe",
    "program",
    "task_prompt",
]
