"""LeetCode's rows become programs: five small problems of ours in the contest file's layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tamis.execution import Sandbox, Status, leetcode, program

LINKS = (
    "_f1 = lambda lst: ListNode(lst[0], _f1(lst[1:])) if lst else None\n"
    "_f2 = lambda node: [node.val] + _f2(node.next) if node else []\n"
)
NODE = (
    "# Definition for singly-linked list.\nclass ListNode:\n    def __init__(self, val=0, next=None):\n"
    "        self.val = val\n        self.next = next\n"
)


def _row(head: str, *asserts: str, before: str = "", setup: str = "") -> dict[str, Any]:
    """A row of ours in the layout of the contest file."""
    stub = f"{before}class Solution:\n    def {head}:\n        "
    return {
        "task_id": f"contest-{head.partition('(')[0]}",
        "meta": {"difficulty": "Easy"},
        "prompt": f'"""\nSolve it.\n\n\nConstraints:\n\n * none\n"""\n{stub}',
        "prompt_sft": f"Solve it.\n\n\nPlease complete the code below to solve above prblem:\n```python\n{stub}\n```\n",
        "test": f"\nmy_solution = Solution()\n\n{setup}\n" + "\n\n".join(asserts),
    }


def _case(arguments: str, method: str, expected: str, wrap: str = "{}") -> str:
    call = wrap.format(f"my_solution.{method}(**test_input)")
    return f"test_input = {{ {arguments} }}\nassert {call} == {expected}"


PROBLEMS = [
    (
        _row(
            "total(self, nums: List[int]) -> int",
            _case('"nums": [1,2,3]', "total", "6"),
            _case('"nums": []', "total", "0"),
        ),
        "        return sum(nums)\n",
    ),
    (
        _row("order(self, nums: List[int]) -> List[int]", _case('"nums": [3,1,2]', "order", "[1,2,3]")),
        "        heapify(nums)\n        return [heappop(nums) for _ in range(len(nums))]\n",
    ),
    (
        _row("power(self, a: int, m: int) -> int", _case('"a": 3, "m": 5', "power", "1")),
        "        return pow(a, 4, m) * gcd(a, m) % inf\n",
    ),
    (
        _row(
            "reverse(self, head: Optional[ListNode]) -> Optional[ListNode]",
            _case('"head": _f1([1,2,3])', "reverse", "[3,2,1]", "_f2({})"),
            before=NODE,
            setup=LINKS,
        ),
        "        last = None\n        while head:\n            last, head.next, head = head, last, head.next\n"
        "        return last\n",
    ),
    (
        _row(
            "depth(self, root: Optional[TreeNode]) -> int",
            _case('"root": TreeNode(1, TreeNode(2), None)', "depth", "2"),
            _case('"root": None', "depth", "0"),
        ),
        "        return 1 + max(self.depth(root.left), self.depth(root.right)) if root else 0\n",
    ),
]
ROW, BODY = PROBLEMS[0]
CLASS = f"class Solution:\n    def total(self, nums: List[int]) -> int:\n{BODY}"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


@pytest.mark.parametrize(("row", "body"), PROBLEMS, ids=["sum", "heap", "pow", "list", "tree"])
def test_solutions_pass_and_none_does_not(row: dict[str, Any], body: str, sandbox: Sandbox) -> None:
    verdict = sandbox.run(leetcode(row, body))
    assert (verdict.status, verdict.detail) == (Status.PASSED, "")
    assert sandbox.run(leetcode(row, "        return None\n")).status is Status.FAILED
    assert sandbox.run(leetcode(row, "        pass\n")).status is Status.FAILED


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(CLASS, id="class"),
        pytest.param(f"Sure:\n\n```python\n{CLASS}```\nIt adds.", id="fence and prose"),
        pytest.param(f"{CLASS}\n\nThis adds all numbers, doesn't it?", id="prose, no fence"),
        pytest.param(f"[PYTHON]\n{CLASS}[/PYTHON]", id="PYTHON tags"),
        pytest.param(f"```python\nimport x\n```\n```python\n{CLASS}\nprint(Solution())\n```", id="the second block"),
        pytest.param("\n        return sum(nums)", id="the harness's body: a new line and eight spaces"),
        pytest.param("return sum(nums)", id="body after the stub's own eight spaces"),
        pytest.param("x = sum(nums)\n        return x\n", id="body of two lines after the stub's own"),
        pytest.param("```python\nreturn sum(nums)\n```", id="body in a fence"),
        pytest.param("```python\nx = sum(nums)\nreturn x\n```", id="body of two lines in a fence"),
        pytest.param("    x = sum(nums)\n    return x\n", id="body at a function's margin"),
        pytest.param("\t\tx = sum(nums)\n\t\treturn x\n", id="tabs"),
        pytest.param("def total(self, nums):\n    return sum(nums)\n", id="method"),
        pytest.param("```python\n    def total(self, nums):\n        return sum(nums)\n```", id="method, indented"),
        pytest.param(NODE + CLASS, id="with a class of its own"),
        pytest.param(CLASS.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(f"def helper(): ...\n\n{CLASS}", id="helper before the class"),
        pytest.param(f"{CLASS}# np.sum would do\n", id="a word of numpy"),
    ],
)
def test_every_form_of_answer(answer: str, sandbox: Sandbox) -> None:
    made = leetcode(ROW, answer)
    verdict = sandbox.run(made)
    assert (verdict.status, verdict.detail) == (Status.PASSED, "")
    assert made.extracted


def test_a_list_of_the_answers_own_nodes(sandbox: Sandbox) -> None:
    row, body = PROBLEMS[3]
    answer = f"{NODE}class Solution:\n    def reverse(self, head):\n{body}"
    assert sandbox.run(leetcode(row, answer)).passed
    same = f"{NODE}class Solution:\n    def reverse(self, head):\n        return head\n"
    assert sandbox.run(leetcode(row, same)).status is Status.FAILED


def test_a_continuation_stops_at_the_margin(sandbox: Sandbox) -> None:
    assert sandbox.run(program(ROW, "\n        return sum(nums)\n\nprint(undefined)", "completion")).passed


@pytest.mark.parametrize("answer", ["", "I cannot do this."])
def test_an_answer_without_code_is_marked(answer: str, sandbox: Sandbox) -> None:
    made = leetcode(ROW, answer)
    assert not made.extracted
    assert not sandbox.run(made).passed


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="contest-total.*'test'"):
        leetcode({key: ROW[key] for key in ("task_id", "prompt")}, CLASS)
