"""npz files, folders of images and their CSVs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .case import BadInput, Make, RunsCode, changed, cut

_CSV = "RadiologyAI_train.csv"


def _arrays(**changes: Any) -> Make:
    """``set.npz`` with some arrays changed, or taken out by ``None``."""

    def make(here: Path, good: Path) -> None:
        with np.load(good / "set.npz") as found:
            arrays = {**found, **changes}
        arrays = {name: np.array([value(here)] * 12) if callable(value) else value for name, value in arrays.items()}
        np.savez(here / "set.npz", **{name: value for name, value in arrays.items() if value is not None})

    return make


def _flipped(here: Path, good: Path) -> None:
    content = bytearray((good / "set.npz").read_bytes())
    start = content.find(b"train_images.npy") + 400
    content[start : start + 50] = bytes(50)
    (here / "set.npz").write_bytes(content)


def _pickled(here: Path) -> Any:
    return RunsCode(here / "code-was-run")


def _csv(change: Callable[[list[str]], list[str]], *splits: str) -> Make:
    """The phantoms with the lines of their CSVs changed."""

    def change_lines(copy: Path) -> None:
        for split in splits or ("train",):
            path = copy / f"RadiologyAI_{split}.csv"
            path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return changed("phantoms", change_lines)


def _images(change: Callable[[Path], object]) -> Make:
    """The phantoms with their first training images changed."""

    def change_images(copy: Path) -> None:
        for line in (copy / _CSV).read_text().splitlines()[1:4]:
            change(copy / line.split(",")[0])

    return changed("phantoms", change_images)


def _npz(wrong: str, says: tuple[str, ...], make: Make, again: bool = False) -> BadInput:
    return BadInput(wrong, "npz --data.path={here}/set.npz", ("set.npz", *says), make, again)


def _folder(wrong: str, says: tuple[str, ...], make: Make, flags: str = "", again: bool = False) -> BadInput:
    return BadInput(wrong, f"folder --data.root={{here}}/copy {flags}", says, make, again)


_LABELS = np.arange(12).reshape(-1, 1) % 3
NPZ = [
    BadInput("no npz", "npz --data.path=nope.npz", ("nope.npz does not exist", "organamnist.npz")),
    _npz("an npz that broke off", ("is no npz (or only part of one)", "again"), cut("set.npz", "set.npz")),
    _npz("an npz without labels", ("lacks the array train_labels", "val_labels"), _arrays(train_labels=None)),
    _npz("labels below 0", ("train_labels has the label -1", "count from 0"), _arrays(train_labels=_LABELS - 1)),
    _npz(
        "a label out of range",
        ("val_labels has the class 7", "the classes are 0 to 2"),
        _arrays(val_labels=_LABELS * 0 + 7),
    ),
    BadInput(
        "one class",
        "npz --data.path={here}/set.npz",
        ("1 class (0)", "two to tell apart", "give data with more"),
        _arrays(train_labels=_LABELS * 0, val_labels=_LABELS * 0),
    ),
    BadInput(
        "one image",
        "npz --data.path={here}/set.npz",
        ("at least 2 images a training step, got 1", "raise batch_size"),
        _arrays(train_images=np.zeros((1, 28, 28), np.uint8), train_labels=_LABELS[1:2], val_labels=_LABELS % 2),
        again=True,
    ),
    _npz("a pickle in an npz", ("train_labels cannot be read", "allow_pickle=False"), _arrays(train_labels=_pickled)),
    BadInput(
        "another number of classes",
        "npz --model.num_classes=7",
        ("num_classes is 7", "3 classes", "leave num_classes out"),
    ),
    BadInput(
        "another kind of labels",
        "npz --model.label_kind=multi",
        ("label_kind is multi", "single", "leave label_kind out"),
    ),
]
FOLDERS = [
    BadInput("no folder", "folder --data.root=nope", ("nope does not exist", "RadiologyAI_{train,val,test}.csv")),
    _folder(
        "other columns of a CSV",
        (f"{_CSV} must have the columns filename and label", "path, class"),
        _csv(lambda lines: ["path,class", *lines[1:]]),
    ),
    _folder(
        "a CSV in Latin-1",
        (f"{_CSV}, line 32 is not UTF-8", "0xfc", "save the CSV as UTF-8"),
        changed(
            "phantoms",
            lambda copy: (copy / _CSV).write_bytes((copy / _CSV).read_bytes() + b"M\xfcller.png,abd-normal\n"),
        ),
    ),
    _folder(
        "a file outside the root",
        (f"{_CSV}, line 32: ../../secret.png lies outside", "relative to the CSV's folder"),
        _csv(lambda lines: [*lines, "../../secret.png,abd-normal"]),
    ),
    _folder(
        "a label that training lacks",
        ("RadiologyAI_val.csv", "abd-nonsense", "take these rows out"),
        _csv(lambda lines: [*lines, lines[1].split(",")[0] + ",abd-nonsense"], "val"),
        "--data.class_list=found",
    ),
    _folder(
        "one image twice",
        ("1 duplicate", f"{_CSV}, line 2", "drop leaves the faulty images out"),
        _csv(lambda lines: [*lines, lines[1]]),
        "--data.audit=raise",
    ),
    _folder(
        "images that broke off",
        (f"({_CSV}, line", "cannot read the image", "truncated", "audit: drop"),
        _images(lambda path: path.write_bytes(path.read_bytes()[:200])),
        "--data.cache=true",
        again=True,
    ),
    BadInput(
        "phantoms of other settings",
        "nothing fit --model=ImageClassifier --data=Phantoms --data.root={good}/phantoms --data.train_images=50",
        ("phantoms holds", "'train': 50", "choose another root"),
    ),
]
