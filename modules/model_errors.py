"""What libraries say of a model that cannot be loaded, as one error that names the model and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_LONGEST = 300
#: What torch refuses to unpickle, as it names it.
_REFUSED = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)")


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Inside, an error of transformers, tokenizers, safetensors or peft becomes one that names the model.

    Args:
        name: folder, file or hub name, as the user gave it.
        what: is read of it: ``model``, ``tokenizer`` …

    Raises:
        ValueError: for any error but a lack of memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # every library has its own
        raise ValueError(f"the {what} of {name} cannot be loaded: {_reason(Path(name), error)}") from error


def whole(loaded: Any, name: str) -> Any:  # noqa: ANN401
    """The model out of ``from_pretrained(..., output_loading_info=True)``, if its files had all of its weights.

    Raises:
        ValueError: naming the first weight that was not there: transformers would leave it at random, with a warning.
    """
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"the files of {name} lack {missing[0]} ({len(missing)} weights are missing), which would stay random; the "
            "files are of another architecture than config.json names, or not all were copied. Give the whole model"
        )
    return model


def _reason(folder: Path, error: Exception) -> str:
    text = str(error)
    refused = _REFUSED.search(text)
    if refused is not None:
        return (
            f"one of its files holds {refused[1] or refused[2]}, which is no tensor and could run code; nothing of it "
            "was run. Give the model as .safetensors"
        )
    if "Weights only load failed" in text:
        return "one of its .bin files is damaged or no file of tensors. Give the model as .safetensors"
    if "trust_remote_code" in text:
        return (
            "it brings code of its own (auto_map in its JSON files), which tamis never runs. Give a model that the "
            "installed transformers knows, or save this one as such"
        )
    if "does not recognize this architecture" in text:
        known = re.search(r"model type `(.+?)`", text)
        return (
            f"the installed transformers does not know the type {known[1] if known else 'in config.json'}. Update "
            "transformers, or give a model of a known type"
        )
    if "ignore_mismatched_sizes" in text:
        return "its weights have other sizes than config.json says. Give the files of one model"
    if type(error).__name__ == "SafetensorError":
        cause = _short(text).rstrip(".")
        return f"a .safetensors file is damaged or only a part ({cause}). Copy or export the model again"
    if folder.is_dir() and not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        return "the folder has no config.json. Give one written by save_pretrained (an earlier stage's <run_dir>/model)"
    if "backend tokenizer" in text:
        return "it has no whole tokenizer (tokenizer.json, tokenizer_config.json). Save the tokenizer beside the model"
    if folder.exists():
        text = f"no {text}" if isinstance(error, KeyError) else text
        return f"{_short(text)} Look at the files, or give a folder written by save_pretrained"
    return f"there is no such folder, and as a name at the hub: {_short(text)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
    return line if line.endswith((".", "!", "…")) else f"{line}."
