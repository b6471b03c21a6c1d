"""Nothing that a user downloads or a model writes runs as code, outside the sandbox."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis.datamodules.image_files import read_image
from tamis.modules.language_model import load_causal_lm, load_tokenizer, load_trunk
from tamis.torch_files import read_torch_file

ROOT = Path(__file__).parents[1]
#: Where the package's code lies, but for `tamis.execution`, which is the place for running what models write.
FOLDERS = ("modules", "datamodules", "callbacks", "src/tamis")
#: What runs code, or processes, out of data.
BUILTINS = {"exec", "eval", "compile", "__import__"}
CALLS = {"exec_module", "import_module", "system", "popen", "posix_spawn", "spawnv", "execv", "execve"}
IMPORTS = {"subprocess", "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "ctypes", "pty"}
#: Where it is done all the same, and why.
ALLOWED = {
    ("src/tamis/tasks/generator.py", "exec"): "the grammar's own references, written by this package",
    ("src/tamis/explain.py", "import_module"): "a class_path that the parser has imported already",
    ("modules/reward_function.py", "exec_module"): "a reward in a file that the user names",
    ("modules/reward_function.py", "import_module"): "a reward in a package that the user names",
    ("src/tamis/torch_files.py", "pickle"): "the name of an error",
    ("src/tamis/run_dir/provenance.py", "subprocess"): "git says which commit is run",
}


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _sources() -> Iterator[tuple[str, ast.AST]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            links = any(parent.is_symlink() for parent in path.parents if parent != ROOT)
            if not (name.startswith("src/tamis/execution/") or links):
                yield name, ast.parse(path.read_text())


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _owner(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _constant(call: ast.Call, keyword: str) -> object:
    """The value of a keyword; the call itself where it is no constant or not there."""
    return next((k.value.value for k in call.keywords if k.arg == keyword and isinstance(k.value, ast.Constant)), call)


def _dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in IMPORTS)
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from [node.module] if node.module.split(".")[0] in IMPORTS else []
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) != "False":
            yield "trust_remote_code"
        if isinstance(node, ast.Dict):
            values = {key.value: value for key, value in zip(node.keys, node.values, strict=True)
                      if isinstance(key, ast.Constant)}  # fmt: skip
            if "trust_remote_code" in values and ast.unparse(values["trust_remote_code"]) != "False":
                yield "trust_remote_code"
        if not isinstance(node, ast.Call):
            continue
        if _name(node) in CALLS or (_name(node) in BUILTINS and _owner(node) in ("", "builtins")):
            yield _name(node)
        if _name(node) == "load" and _owner(node) == "torch" and _constant(node, "weights_only") is not True:
            yield "torch.load"
        if _name(node) == "load" and _owner(node) in ("np", "numpy") and _constant(node, "allow_pickle") is not False:
            yield "np.load"
        if _name(node) == "load_from_checkpoint":
            yield "load_from_checkpoint"


def test_nothing_runs_code_but_what_is_listed() -> None:
    found = {(name, danger) for name, tree in _sources() for danger in _dangers(tree)}
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set()  # a reason that has gone should not stay open


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import subprocess", "subprocess"),
        ("from pickle import loads", "pickle"),
        ("exec(text)", "exec"),
        ("builtins.eval(text)", "eval"),
        ("compile(text, 'x', 'exec')", "compile"),
        ("os.system(text)", "system"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("np.load(path)", "np.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("f(name, trust_remote_code=True)", "trust_remote_code"),
        ("f(name, trust_remote_code=option)", "trust_remote_code"),
        ("f(**{'trust_remote_code': trust})", "trust_remote_code"),
        ("spec.loader.exec_module(module)", "exec_module"),
    ],
)
def test_the_look_at_the_sources_sees(source: str, danger: str) -> None:
    assert list(_dangers(ast.parse(source))) == [danger]


def test_the_look_at_the_sources_lets_the_rest_be() -> None:
    harmless = "re.compile(x)\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nmodel.eval()\n"
    assert list(_dangers(ast.parse(harmless))) == []


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What the trap would make, once it is seen to."""
    path = tmp_path / "code-was-run"
    pickle.loads(pickle.dumps(_Trap(path)))
    assert path.is_dir()
    path.rmdir()
    yield path
    assert not path.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_in_torch_files_are_not_run(zipped: bool, marker: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1), "x": _Trap(marker)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x\.pt cannot be read: it holds \w+\.mkdir, .*nothing of it was run; do x"):
        read_torch_file(tmp_path / "x.pt", "do x")
    (tmp_path / "x.pt").write_bytes(pickle.dumps(_Trap(marker)))
    with pytest.raises(ValueError, match=r"x\.pt cannot be read: .*; do x"):
        read_torch_file(tmp_path / "x.pt", "do x")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_in_arrays_are_not_run(suffix: str, marker: Path, tmp_path: Path) -> None:
    """An image of a folder may be any file."""
    path, objects = tmp_path / f"x{suffix}", np.array([_Trap(marker)], dtype=object)
    np.save(path, objects) if suffix == ".npy" else np.savez(path, objects)
    with pytest.raises(ValueError, match="Python objects, which could run code, .* nothing of it was run"):
        read_image(path)
    path.write_bytes(pickle.dumps(_Trap(marker)))
    with pytest.raises(ValueError, match="Python objects, which could run code, .* nothing of it was run"):
        read_image(path)


def test_code_beside_a_model_of_a_known_type_is_left_alone(tiny_model: str, marker: Path, tmp_path: Path) -> None:
    """Many models of the hub bring code that transformers has by now: its own is taken, theirs is not even read."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    config = json.loads((copy / "config.json").read_text())
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    config["auto_map"] = dict.fromkeys(classes, "evil.Evil")
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "custom_generate").mkdir()
    for name in ("evil.py", "custom_generate/generate.py"):
        (copy / name).write_text(
            f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\ndef generate(*a, **k): pass\n"
        )
    load_tokenizer(str(copy))
    for load in (load_causal_lm, load_trunk):
        assert type(load(str(copy))).__module__.startswith("transformers.models.llama")
