"""Turns rows of the published benchmarks, and a model's answers to them, into prompts and programs."""

from .humaneval import humaneval
from .layouts import benchmark_of, program, task_prompt
from .leetcode import leetcode
from .mbpp import mbpp
from .prompts import PromptStyle

__all__ = ["PromptStyle", "benchmark_of", "humaneval", "leetcode", "mbpp", "program", "task_prompt"]
