"""LeetCode's contest problems, in DeepSeek-Coder's layout: the answer is a class ``Solution``."""

from __future__ import annotations

import re
import textwrap

from ..extraction import clean, defines, find_code
from ..programs import Program
from .comparators import compared
from .rows import Row, text

# What an answer may use without importing it. The published harness has the first four lines; LeetCode itself, and so
# what models have learned to leave out, the rest too. The builtin pow, with its three arguments, goes before math's.
IMPORTS = """\
import collections, copy, datetime, functools, hashlib, heapq, itertools, math, re, string, sys
from typing import *
from collections import *
from functools import *
import bisect, operator, random, statistics
from bisect import *
from copy import deepcopy
from heapq import *
from itertools import *
from math import *
from operator import add, and_, itemgetter, mul, or_, xor
from random import randint
from builtins import pow
"""
NUMPY = "try:\n    import numpy, numpy as np\nexcept ImportError:\n    pass\n"  # slow: for answers that name it
NODES = """\
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right
"""
SHAPES = ("ListNode", "TreeNode")
SOLUTION = "Solution"
BODY = " " * 8


def leetcode(problem: Row, completion: str) -> Program:
    """A row of DeepSeek-Coder's LeetCode contest file and an answer to it.

    Args:
        problem: The row: ``prompt`` (a docstring and the head of ``class Solution``), ``test``. Optionally
            ``comparator``.
        completion: The model's answer: the class, its method, or the method's body that continues the prompt; as code
            or as text with code in it.

    Raises:
        ValueError: The row lacks a key, or its test is not Python.
    """
    code = find_code(completion, (SOLUTION,))
    stub = stub_of(text(problem, "prompt"))
    answer = clean(completion)
    if code is None:
        solution = answer
    elif "```" not in answer and _is_body(answer):
        solution = _with_body(stub, answer)
    else:
        solution = _completed(stub, code)
    uses_numpy = re.search(r"\b(?:np|numpy)\b", solution) is not None
    before, test = compared(problem, text(problem, "test"), ("my_solution", SOLUTION))
    source = f"{IMPORTS}{NUMPY if uses_numpy else ''}{NODES}\n{solution}"
    return Program(
        source,
        test,
        f"{IMPORTS}{NODES}{before}",
        names=(SOLUTION,),
        classes=(SOLUTION,),
        shapes=SHAPES,
        extracted=code is not None,
    )


def stub_of(prompt: str) -> str:
    """The code behind the prompt's docstring: the head of the class and of its method."""
    head, mark, stub = prompt.rpartition('"""')
    return stub.lstrip("\n") if mark and head else prompt


def _is_body(answer: str) -> bool:
    """Whether the answer goes on where the stub stops: in the method."""
    return answer.lstrip("\n").startswith((BODY, "\t\t")) or not defines(answer, ())


def _completed(stub: str, code: str) -> str:
    """The class that the code is, or is a part of."""
    if defines(code, (SOLUTION,)):
        return code
    if re.search(r"^[ \t]*def[ \t]+\w+[ \t]*\([ \t]*self\b", code, re.MULTILINE) and not code.startswith(BODY):
        return f"class {SOLUTION}:\n" + textwrap.indent(textwrap.dedent(code), "    ")
    return code if defines(code, ()) else _with_body(stub, code)


def _with_body(stub: str, body: str) -> str:
    """The stub and a method's body, at the margin where the method wants it."""
    lines = body.replace("\t", "    ").strip("\n").split("\n")
    if not lines[0].startswith(" "):
        # The stub's own margin came before the first line, so that this alone has none; or the whole body has none.
        rest = [line for line in lines[1:] if line.strip()]
        alone = not rest or all(line.startswith(BODY) for line in rest)
        lines = [BODY + lines[0], *lines[1:]] if alone else [BODY + line for line in lines]
    elif not lines[0].startswith(BODY):
        lines = textwrap.indent(textwrap.dedent("\n".join(lines)), BODY).split("\n")
    return stub.rstrip() + "\n" + "\n".join(lines) + "\n"
