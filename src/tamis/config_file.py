"""The option ``--config``: a YAML file is looked at before its keys are, so that an error names file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined] # exported, but not by __all__

_WANTED = "a config holds keys with values, such as `model:` with a `class_path:` below it"


class ConfigFile(ActionConfigFile):
    """jsonargparse's action behind a look at the file."""

    def __call__(
        self,
        parser: Any,  # noqa: ANN401 - jsonargparse's and argparse's signatures differ
        cfg: Any,  # noqa: ANN401
        values: Any,  # noqa: ANN401
        option_string: str | None = None,
    ) -> None:
        """Refuse a file that is no config; then as ever."""
        try:
            check_config_file(Path(str(values)))
        except ValueError as error:
            parser.error(str(error), error)
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def check_config_file(path: Path) -> None:
    """Refuse a file that is not the YAML of keys and values. A path that is no file is left to the parser.

    Raises:
        ValueError: naming the file, and the line where there is one, for a file that cannot be read, is not UTF-8, is
            no YAML, holds no keys, or the same key twice, of which YAML would take the last without a word.
    """
    if not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ValueError(f"{path}:{line}: not UTF-8 text (byte 0x{byte:02x}); save the config as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 0 if mark is None else mark.line + 1
        raise ValueError(
            f"{path}:{line}: not valid YAML ({error.problem or error.context}); look at the indentation, brackets and "
            "quotes there and above"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if node is None:
        raise ValueError(f"{path} is empty; {_WANTED}")
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(
            f"{path} holds a {'list' if isinstance(node, yaml.SequenceNode) else 'single value'}; {_WANTED}"
        )
    _refuse_doubled_keys(path, node)


def _refuse_doubled_keys(path: Path, node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubled_keys(path, item)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if isinstance(key.value, str) and lines.setdefault(key.value, line) != line:
            raise ValueError(
                f"{path}:{line}: the key {key.value!r} is there already, in line {lines[key.value]}, and only one can "
                "count; take one away"
            )
        _refuse_doubled_keys(path, value)
