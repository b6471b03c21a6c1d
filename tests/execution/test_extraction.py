"""Finding the code in answers."""

import pytest

from tamis.execution import extract_code

CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (CODE, CODE),
        (f"```python\n{CODE}```", CODE),
        (f"Sure:\n\n```python\n{CODE}```\nand\n```python\nother()\n```", CODE),
        (f"```\nnot this\n```\n```py\n{CODE}```", CODE),
        (f"```Python3 title=x\n{CODE}```", CODE),
        (f"```\n{CODE}```\n", CODE),
        (f"```text\n{CODE}```\n", CODE),
        (f"Here it is:\n```python\n{CODE}", CODE),
        ("```python\nreturn 1```", "return 1"),
        ("1. This:\n   ```python\n   def f(x):\n       return x\n   ```", CODE),
        (f"{CODE}```\n", CODE),
        (f"[BEGIN]\n{CODE}[DONE]\nmore", CODE),
        (f"{CODE}[DONE]\n[BEGIN]", CODE),
        (f"[BEGIN]\n{CODE}", CODE),
        (f"<think>try\n```python\nwrong()\n```\n</think>\n```python\n{CODE}```", CODE),
        (f"thoughts</think>{CODE}", CODE),
        ("```python\r\ndef f(x):\r\n    return x\r\n```", CODE),
        ("", ""),
    ],
)
def test_extract_code(text: str, code: str) -> None:
    assert extract_code(text) == code
