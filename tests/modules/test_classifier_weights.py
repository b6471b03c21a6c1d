"""What fine-tuning starts from: which files are read, what is said of them, and that a wrong one changes nothing."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.backbones import build_backbone, load_classifier, save_classifier
from tamis.modules.classifier_weights import blocks_of

State = dict[str, Tensor]


def copy_of(network: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def donor() -> nn.Module:
    return build_backbone("resnet10t", 4)


def test_blocks_are_ranges_and_say_how_much_of_one_is_there() -> None:
    names = ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.w", "layer2.0.w", "layer3.0.w", "fc.weight", "fc.bias"]
    assert blocks_of(names, names) == "conv1, bn1, layer1-3, fc"
    assert blocks_of([n for n in names if n not in ("bn1.bias", "layer2.0.w")], names) == (
        "conv1, bn1 (1 of 2), layer1, layer3, fc"
    )


def test_the_sentence_says_what_was_taken_what_was_left_and_what_the_file_had_beyond(
    tmp_path: Path, donor: nn.Module
) -> None:
    torch.save(copy_of(donor) | {"projector.0.weight": torch.zeros(2)}, tmp_path / "plain.pt")
    path = tmp_path / "plain.pt"
    total = len(donor.state_dict())
    whole = load_classifier(path, build_backbone("resnet10t", 4), "resnet10t", 4)
    assert whole == (
        f"{total} of {total} tensors taken from {path}: conv1, bn1, layer1-4, fc; left as they were: none; "
        "the file had beyond: projector"
    )
    partly = load_classifier(path, build_backbone("resnet10t", 7), "resnet10t", 7, reset_head=True)
    assert partly == (
        f"{total - 2} of {total} tensors taken from {path}: conv1, bn1, layer1-4; left as they were: fc; "
        "the file had beyond: fc, projector"
    )


FILES: dict[str, Callable[[State], object]] = {
    "a plain state dict": lambda state: state,
    "a compiled network": lambda state: {f"_orig_mod.{name}": t for name, t in state.items()},
    "a distributed and compiled network": lambda state: {f"module._orig_mod.{name}": t for name, t in state.items()},
    "a compiled classifier of a checkpoint": lambda state: {
        "state_dict": {f"network._orig_mod.{name}": t for name, t in state.items()} | {"policy.weight": torch.ones(1)}
    },
    "the released code's checkpoint": lambda state: {"model": state, "epoch": 89, "args": argparse.Namespace(lr=0.1)},
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_read(kind: str, tmp_path: Path, donor: nn.Module) -> None:
    torch.save(FILES[kind](copy_of(donor)), tmp_path / "weights.pt")
    network = build_backbone("resnet10t", 4)
    load_classifier(tmp_path / "weights.pt", network, "resnet10t", 4)
    assert same(copy_of(network), copy_of(donor))


@pytest.mark.parametrize("module", [NoiseMaskPretraining, ImageClassifier])
def test_checkpoints_of_both_image_modules_are_read(
    module: type[NoiseMaskPretraining] | type[ImageClassifier], tmp_path: Path
) -> None:
    heated = (
        ImageClassifier("test_resnet", num_classes=2)
        if module is ImageClassifier
        else NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=2, grid=4)
    )
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(heated)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    network = build_backbone("test_resnet", 2)
    load_classifier(tmp_path / "last.ckpt", network, "test_resnet", 2)
    assert same(copy_of(network), copy_of(heated.classifier))
    with pytest.raises(ValueError, match="holds a test_resnet, but this model is a resnet10t"):
        load_classifier(tmp_path / "last.ckpt", build_backbone("resnet10t", 2), "resnet10t", 2)


def without(state: State, *beginnings: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(beginnings)}


def reshaped(state: State) -> State:
    return state | {"layer4.0.bn2.weight": torch.ones(3)}


WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "another shape at the end": (reshaped, r"another network than resnet10t: layer4.0.bn2.weight is 3 in the file and"),
    "missing tensors": (lambda s: without(s, "layer3"), r"the file lacks layer3.*and \d+ more. Set backbone"),
    "a deeper network": (lambda s: s | {"layer4.9.conv1.weight": torch.ones(1)}, "the network has no layer4.9.conv1"),
    "nothing in common": (lambda s: {"encoder.weight": torch.ones(2)}, "has no last layer fc; set reset_head"),
    "no last layer": (lambda s: without(s, "fc."), "has no last layer fc; set reset_head"),
    "no tensors": (lambda s: {"epoch": 3}, "holds no weights: it has the keys epoch, where"),
    "a list": (lambda s: [1, 2], "holds no weights: it has a list"),
    "an empty file": (lambda s: {}, "holds no weights: it has no keys"),
    "another class count": (lambda s: s | {"fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}, "on 9 classes"),
    "code": (lambda s: {"state_dict": s, "x": Path("/")}, r"holds pathlib\.\w+, which is no tensor and could run code"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_named_and_changes_nothing(kind: str, tmp_path: Path, donor: nn.Module) -> None:
    make, message = WRONG[kind]
    torch.save(make(copy_of(donor)), tmp_path / "weights.pt")
    network = build_backbone("resnet10t", 4)
    before = copy_of(network)
    with pytest.raises(ValueError, match=message) as error:
        load_classifier(tmp_path / "weights.pt", network, "resnet10t", 4)
    assert str(tmp_path / "weights.pt") in str(error.value)
    assert same(copy_of(network), before)


def test_weights_without_counters_of_batches_are_whole(tmp_path: Path, donor: nn.Module) -> None:
    torch.save({n: t for n, t in copy_of(donor).items() if "num_batches" not in n}, tmp_path / "old.pt")
    sentence = load_classifier(tmp_path / "old.pt", build_backbone("resnet10t", 4), "resnet10t", 4)
    assert "left as they were: conv1 (2 of 13), bn1 (1 of 5), layer1 (" in sentence


@pytest.mark.parametrize("text", ["", "hi\n", "no weights", "\x80\x02]q"])
def test_a_file_that_is_no_torch_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"text\.pt cannot be read"):
        load_classifier(tmp_path / "text.pt", build_backbone("test_resnet", 4), "test_resnet", 4)


def test_labels_of_another_kind_are_another_last_layer(tmp_path: Path, donor: nn.Module) -> None:
    """As many labels as classes fit by their shapes, and would be taken for each other."""
    save_classifier(tmp_path, donor, "resnet10t", 4, "multi")
    network = build_backbone("resnet10t", 4)
    before = copy_of(network)
    with pytest.raises(ValueError, match="was trained with label_kind multi, and the data's labels are single"):
        load_classifier(tmp_path, network, "resnet10t", 4, label_kind="single")
    assert same(copy_of(network), before)
    load_classifier(tmp_path, network, "resnet10t", 4, label_kind="multi")
    load_classifier(tmp_path, network, "resnet10t", 4, reset_head=True, label_kind="single")
    save_classifier(tmp_path, donor, "resnet10t", 4, "ordinal")
    load_classifier(tmp_path, network, "resnet10t", 4, label_kind="single")
