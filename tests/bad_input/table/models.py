"""Model folders, adapters, checkpoints and weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .case import BadInput, Make, RunsCode, changed, file

_SFT = "sft --model.model_name_or_path={here}/copy"
_SAFE = "model.safetensors"
_EVIL = "import os\nos.mkdir('{marker}')\nclass Model: pass\n"


def _model(wrong: str, says: tuple[str, ...], change: Callable[[Path], object]) -> BadInput:
    return BadInput(wrong, _SFT, ("copy", *says), changed("model", change))


def _reward(wrong: str, says: tuple[str, ...], change: Callable[[Path], object]) -> BadInput:
    command = "policy --model.reward.model_name_or_path={here}/copy"
    return BadInput(wrong, command, ("copy", *says), changed("reward", change))


def _config(name: str = "config.json", **options: Any) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | options))

    return change


def _code_of_its_own(name: str, **options: Any) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        _config(name, **options)(copy)
        (copy / "evil.py").write_text(_EVIL.format(marker=copy.parent / "code-was-run"))

    return change


def _empty(copy: Path) -> None:
    for path in copy.iterdir():
        path.unlink()


def _without_tokenizer(copy: Path) -> None:
    for path in copy.glob("token*"):
        path.unlink()


def _as_bin(content: Callable[[Path], bytes | None]) -> Callable[[Path], None]:
    """Weights as a .bin file: bytes, or a torch file with code among the tensors."""

    def change(copy: Path) -> None:
        (copy / _SAFE).unlink()
        found = content(copy)
        if found is None:
            torch.save({"weight": torch.ones(1), "x": _code(copy)}, copy / "pytorch_model.bin")
        else:
            (copy / "pytorch_model.bin").write_bytes(found)

    return change


def _code(copy: Path) -> RunsCode:
    return RunsCode(copy.parent / "code-was-run")


def _without_a_layer(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = {name: tensor for name, tensor in load_file(copy / _SAFE).items() if "layers.0." not in name}
    save_file(state, copy / _SAFE, metadata={"format": "pt"})


def _adapter(content: str = "", **options: Any) -> Make:
    """A folder with an adapter's config, and weights that are a pickle with code."""

    def make(here: Path, good: Path) -> None:
        (here / "copy").mkdir()
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
        config |= {"base_model_name_or_path": str(good / "model")} | options
        (here / "copy" / "adapter_config.json").write_text(content or json.dumps(config))
        if not options.pop("bare", False):
            torch.save({"x": _code(here / "copy")}, here / "copy" / "adapter_model.bin")

    return make


MODELS = [
    BadInput("no model folder", "sft --model.model_name_or_path=./nope", ("'./nope'", "save_pretrained", "hub name")),
    BadInput(
        "a GGUF file that is none",
        "sft --model.model_name_or_path={here}/x.gguf",
        ("x.gguf", "GGUF magic"),
        file("x.gguf", "nope"),
    ),
    _model("an empty model folder", ("no config.json", "save_pretrained"), _empty),
    _model(
        "no tokenizer",
        ("tokenizer.json", "Save the tokenizer beside the model"),
        _without_tokenizer,
    ),
    _model("a model of unknown type", ("quantumformer", "Update transformers"), _config(model_type="quantumformer")),
    _model(
        "weights of another architecture",
        ("lack bert.", "would stay random", "Give the whole model"),
        _config(model_type="bert"),
    ),
    _model(
        "weights of another size",
        ("other sizes than config.json", "Give the files of one model"),
        _config(hidden_size=64),
    ),
    _model("weights that lack a layer", ("lack model.layers.0.", "9 weights", "would stay random"), _without_a_layer),
    _model(
        "weights that broke off",
        ("damaged or only a part", "again"),
        lambda copy: (copy / _SAFE).write_bytes((copy / _SAFE).read_bytes()[:5000]),
    ),
    _model("code among weights", ("mkdir", "nothing of it was run", ".safetensors"), _as_bin(lambda copy: None)),
    _model(
        "a pickle for weights",
        ("damaged or no file of tensors", ".safetensors"),
        _as_bin(lambda copy: pickle.dumps(_code(copy))),
    ),
    _model(
        "a model with code of its own",
        ("auto_map", "which tamis never runs", "installed transformers knows"),
        _code_of_its_own(
            "config.json",
            model_type="evil",
            auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        ),
    ),
    _model(
        "a tokenizer with code of its own",
        ("auto_map", "which tamis never runs"),
        _code_of_its_own(
            "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Model", None]}
        ),
    ),
    BadInput(
        "an adapter without its base",
        _SFT,
        ("adapter_config.json", "/gone/base", "write its place there"),
        _adapter(base_model_name_or_path="/gone/base"),
    ),
    BadInput("an adapter without weights", _SFT, ("no adapter_model.safetensors", "again"), _adapter(bare=True)),
    BadInput("code in an adapter", _SFT, ("the adapter of", "mkdir", "nothing of it was run"), _adapter()),
    BadInput(
        "a language model for a reward",
        "policy --model.reward.model_name_or_path={good}/model",
        ("model", "without a trained reward head", "RewardModel"),
    ),
    _reward(
        "a reward head that broke off",
        ("the reward head of", "damaged or only a part"),
        lambda copy: (copy / "scalar_head.safetensors").write_bytes(b"x"),
    ),
]
