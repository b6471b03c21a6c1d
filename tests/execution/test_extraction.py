"""Finding the code in raw generations."""

import time

import pytest

from tamis.execution import extract_code, find_code

CODE = "def f(x):\n    return x\n"
HELPED = "import math\n\ndef helper(x):\n    return x\n\n" + CODE


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


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(
            f"```python\ndef g(): ...\n```\nthen\n```python\n{CODE}```", CODE, id="defined in the second block"
        ),
        pytest.param(f"```python\npip\n```\n```bash\n{CODE}```", CODE, id="wrong tag on the block that defines it"),
        pytest.param(f"{CODE}```\nThis returns x.\n", CODE, id="closing fence only, then prose"),
        pytest.param("    return x\n```\nDone.", "    return x\n", id="body, closing fence only"),
        pytest.param(f"Here is f:\n\n{CODE}\nIt's simple.\n", CODE, id="prose around, no fence"),
        pytest.param(f"Sure.\n{HELPED}\nHope it helps!", HELPED, id="imports and helpers in prose"),
        pytest.param(f"Note: x = 3 here.\n{CODE}", CODE, id="prose that looks like a statement"),
        pytest.param(f"```python\n{HELPED}```", HELPED, id="helpers in the block"),
        pytest.param(f"[PYTHON]\n{CODE}[/PYTHON]\nok", CODE, id="PYTHON tags"),
        pytest.param(f"{CODE}<|endoftext|>```python\ndef f(): ...\n```", CODE, id="end token"),
        pytest.param(f"{CODE}</s>", CODE, id="end token of Llama 2"),
        pytest.param(f"```python\n{CODE}\n\nprint(f(1))\nassert f(1) == 2\n# done\n```", CODE, id="examples after it"),
        pytest.param(f"{CODE}\nassert f(1) == 2\n", CODE, id="asserts after it, no fence"),
        pytest.param(CODE.replace("\n", "\r\n"), CODE, id="CRLF"),
        pytest.param(CODE.replace("\n", "\r"), CODE, id="CR"),
        pytest.param("def f(x):\n\treturn x\n", "def f(x):\n\treturn x\n", id="tabs"),
        pytest.param("```python\n    return x\n```", "    return x\n", id="body in a fence"),
        pytest.param("\n        pass\n", "        pass\n", id="body that does nothing"),
        pytest.param("f = lambda x: x\n", "f = lambda x: x\n", id="assigned"),
        pytest.param(f"```{CODE}", CODE.partition("\n")[2], id="code on the fence's own line is lost"),
        pytest.param("<think>is it f?\n" + CODE, None, id="thinking that never ends"),
        pytest.param("I cannot do this.", None, id="a refusal"),
        pytest.param("Sorry", None, id="a word, which is valid Python"),
        pytest.param("```python\n\n```", None, id="an empty block"),
        pytest.param("  \n\n", None, id="white space"),
    ],
)
def test_raw_generations(text: str, code: str | None) -> None:
    found = find_code(text, ("f",))
    assert (found and found.strip("\n")) == (code and code.strip("\n"))


def test_code_that_breaks_off_is_still_an_answer() -> None:
    """A wrong answer, and not one without code: the verdict will be a syntax error."""
    assert find_code("def f(x):\n    return (x +", ("f",)) is not None
    assert find_code("Here:\n```python\ndef f(x):\n    return (x +", ("f",)) == "def f(x):\n    return (x +"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 60_000,
        "-" * 60_000 + "1",
        "x\n" + "+".join("1" * 15_000),
        "def f(x):\n  return x x\n" * 1_000,
        "```\n" * 15_000,
        "\n" * 60_000 + "x y",
        "a: " + " " * 60_000,
        "x y\n" + "@a\n" * 8_000,
        "\0\ud800" * 100,
    ],
    ids=range(9),
)
def test_no_answer_hangs_the_trainer(text: str) -> None:
    started = time.process_time()
    find_code(text, ("f",))
    assert time.process_time() - started < 5  # 0.3 s at most when it was written; hundreds if it were quadratic
