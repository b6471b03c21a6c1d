"""What is wrong with a config file is said with its line, before any key of it is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.config_file import check_config_file

DOUBLED = "update:\n  class_path: PPOUpdate\nfilter:\n  keep: 2\nupdate:\n  class_path: ReinforceUpdate\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", " is empty; a config holds keys with values"),
        (b"# only a comment\n", " is empty; "),
        (b"- a\n- b\n", " holds a list; a config holds keys"),
        (b"seven\n", " holds a single value; a config holds keys"),
        (b"model: x\ndata: M\xfcller\n", ":2: not UTF-8 text (byte 0xfc); save the config as UTF-8"),
        (b"model:\n\tclass_path: x\n", ":2: not valid YAML ("),
        (b"model: {a: 1\n", ":2: not valid YAML ("),
        (b"model: 'x\n", ":2: not valid YAML (found unexpected end of stream); look at"),
        (b"model: x\x00\n", ": not valid YAML ("),
        (DOUBLED.encode(), ":5: the key 'update' is there already, in line 1, and only one can count"),
        (
            b"trainer:\n  callbacks:\n  - class_path: A\n    class_path: B\n",
            ":4: the key 'class_path' is there already",
        ),
    ],
)
def test_a_broken_config_is_named_with_its_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="run.yaml") as error:
        check_config_file(path)
    assert str(error.value).startswith(f"{path}{says}")
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["a: 1\nb: {a: 1}\n", "a: &x {k: 1}\nb: {<<: *x, c: 2}\n"])
def test_a_whole_one_passes(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(content)
    check_config_file(tmp_path / "run.yaml")


def test_the_parser_speaks_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    check_config_file(tmp_path / "run.yaml")
    check_config_file(tmp_path)
