"""Options of the datamodules, seen in what their loaders give and what they leave on the disk."""

from __future__ import annotations

import csv
import json
import multiprocessing
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tamis.datamodules import CodeTasks, Instructions, MedMNIST, NoiseAugmentation, Phantoms, Preferences, RadImageNet
from tamis.datamodules.images import ImageDataModule

from .turning import Knobs, Of, Options, Turn

HEAD = 'def f(x):\n    """Double x."""\n'


class Material(NamedTuple):
    """Files for the datamodules.

    Args:
        pictures: one CSV without splits over 16 colour images, of which one is blank, with patient and site.
        others: the same with other images.
        volumes: the same with images in Hounsfield units.
        npz: 12 grey images of three classes a split.
        other: the same with other pixels.
        named: a folder with a file that bears an official name.
        tasks: 12 tasks in HumanEval's layout.
        few: 5 other ones.
        mbpp: 4 rows in MBPP's layout.
        shot: the last of them.
        pairs: 40 preference pairs.
        some: 30 others.
        nowhere: an empty folder.
    """

    pictures: str
    others: str
    volumes: str
    npz: str
    other: str
    named: str
    tasks: str
    few: str
    mbpp: str
    shot: str
    pairs: str
    some: str
    nowhere: str


def material(folder: Path) -> Material:
    """Write it."""
    draw = np.random.default_rng(0)
    roots = {name: _images(folder / name, draw) for name in ("pictures", "others", "volumes")}
    for name in ("npz", "other", "breastmnist"):
        arrays: dict[str, Any] = {}
        for split in ("train", "val", "test"):
            arrays[f"{split}_labels"] = np.array([0] * 6 + [1] * 4 + [2] * 2, dtype=np.uint8).reshape(-1, 1)
            arrays[f"{split}_images"] = draw.integers(0, 255, (12, 28, 28), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", **arrays)
    test = "def check(f):\n    assert f(1) == 2\n"
    task = {"entry_point": "f", "test": test, "canonical_solution": "    return 2 * x\n"}
    files: dict[str, list[dict[str, Any]]] = {
        "tasks": [{"task_id": f"t/{n}", "prompt": HEAD + f"    # {n * 'a'}\n", **task} for n in range(12)],
        "few": [{"task_id": f"u/{n}", "prompt": HEAD + f"    # {n * 'b'}\n", **task} for n in range(5)],
        "mbpp": [
            {
                "task_id": n,
                "text": f"Double x. {n}",
                "code": "def f(x):\n    return 2 * x",
                "test_list": ["assert f(1) == 2"],
            }
            for n in range(4)
        ],
        "pairs": [{"prompt": f"p{n}", "chosen": "yes " * (1 + n % 7), "rejected": "no"} for n in range(40)],
        "some": [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(30)],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    npz = {name: str(folder / f"{name}.npz") for name in ("npz", "other")}
    files["shot"] = files["mbpp"]
    texts = {name: str(folder / f"{name}.jsonl") for name in files} | {"shot": f"{folder / 'mbpp.jsonl'}[3:]"}
    return Material(**roots, **npz, named=str(folder), nowhere=str(folder / "nowhere"), **texts)


def _images(root: Path, draw: np.random.Generator) -> str:
    import nibabel
    from PIL import Image

    root.mkdir()
    with (root / "images.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["filename", "label", "patient", "site"])
        for n in range(16):
            pixels = draw.integers(0, 255, (24, 24, 3), dtype=np.uint8) * (n != 3)
            if root.name == "volumes":
                file = f"{n}.nii"
                nibabel.save(nibabel.Nifti1Image(pixels[..., 0].astype(np.int16), np.eye(4)), root / file)
            else:
                file = f"{n}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(root / file)
            table.writerow([file, ("cat", "cow", "dog", "dog")[n % 4], n // 2, n % 5])
    return str(root)


def _first_batches(made: ImageDataModule, split: str) -> list[Any]:
    made.prepare_data()
    made.setup("fit")
    loader = made.train_dataloader() if split == "train" else made.val_dataloader()
    return [tuple(made.on_after_batch_transfer(batch, 0)) for batch in loader]


def _train(make: Callable[..., ImageDataModule], material: Material, folder: Path, options: Options) -> Any:
    return _first_batches(make(folder, options), "train")


def _held_out(make: Callable[..., ImageDataModule], material: Material, folder: Path, options: Options) -> Any:
    return _first_batches(make(folder, options), "val")


def _classes(make: Callable[..., ImageDataModule], material: Material, folder: Path, options: Options) -> Any:
    made = make(folder, options)
    made.prepare_data()
    made.setup("fit")
    return made.class_names, made.label_kind


def _sizes(make: Callable[..., ImageDataModule], material: Material, folder: Path, options: Options) -> Any:
    """Of the splits, and which images are in them."""
    made = make(folder, options)
    made.prepare_data()
    for stage in ("fit", "test"):
        made.setup(stage)
    sources = [made.split(split).source for split in ("train", "val", "test")]
    return [[source.read(index) for index in range(len(source))] for source in sources]


def _files(make: Callable[..., ImageDataModule], material: Material, folder: Path, options: Options) -> Any:
    made = make(folder, options)
    made.prepare_data()
    made.setup("fit")
    kept = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix not in (".png", ".json")]
    return sorted(re.sub("-[0-9a-f]{12}", "", path) for path in kept)  # a cache's name hangs on the file's place


def _processes(make: Callable[..., ImageDataModule], material: Material, folder: Path, options: Options) -> Any:
    made = make(folder, options)
    made.prepare_data()
    made.setup("fit")
    batches = iter(made.train_dataloader())
    next(batches)
    return len(multiprocessing.active_children())


def _radimagenet(folder: Path, options: Options) -> RadImageNet:
    root = folder / "root"  # a copy, since caches lie in it
    shutil.copytree(options.pop("root"), root)
    if "cache_dir" in options:
        options["cache_dir"] = str(folder / options["cache_dir"])
    return RadImageNet(str(root), **options)


def _medmnist(folder: Path, options: Options) -> MedMNIST:
    path = options.pop("path")
    if isinstance(path, str) and Path(path).is_file():
        path = str(shutil.copy2(path, folder))
    if "cache_dir" in options:
        options["cache_dir"] = str(folder / options["cache_dir"])
    return MedMNIST(path, **options)


def _phantoms(folder: Path, options: Options) -> Phantoms:
    return Phantoms(str(folder / options.pop("root")), **options)


def _parts(make: Callable[[Path, Options], ImageDataModule]) -> dict[str, Any]:
    parts = {"train": _train, "held_out": _held_out, "classes": _classes}
    parts |= {"sizes": _sizes, "files": _files, "processes": _processes}
    return {name: partial(part, make) for name, part in parts.items()}


_NOISE = NoiseAugmentation("gaussian", strength=(0.1, 0.1))
#: Of every image datamodule.
_OF_IMAGES = {
    "batch_size": Turn(3, "train"),
    "image_size": Turn(20, "train"),
    "eval_resize": Turn(40, "held_out"),
    "crop_scale": Turn((0.2, 0.3), "train"),
    "flip": Turn(1.0, "train"),
    "mean": Turn(0.1, "held_out"),
    "std": Turn(0.9, "held_out"),
    "num_workers": Turn(1, "processes"),
    "shots": Turn(1, "train"),
    "shots_seed": Turn(4, "train", {"shots": 1}),
    "noise": Turn(_NOISE, "train"),
    "sampling": Turn("balanced", "train"),
    "data_seed": Turn(1, "train"),
    "cache": Turn(True, "files"),
}
_STORED = {"stored_size": Turn(24, "train"), "cache_dir": Turn("elsewhere", "files", {"cache": True})}

_RADIMAGENET = Knobs(
    _parts(_radimagenet),
    _OF_IMAGES
    | _STORED
    | {
        "root": Turn(Of("others"), "train"),
        "only_classes": Turn(["c*"], "classes"),
        "without_classes": Turn(["dog"], "classes"),
        "audit": Turn("drop", "sizes"),
        "color": Turn("rgb", "held_out"),
        "intensity_range": Turn((0.0, 100.0), "held_out", {"root": Of("volumes")}),
        "class_list": Turn("pinned", "classes", refused="cat, cow, dog"),
        "group_column": Turn("site", "sizes"),
        "split_shares": Turn((0.25, 0.25, 0.5), "sizes"),
        "split_seed": Turn(1, "sizes"),
    },
    {"root": Of("pictures"), "batch_size": 2, "image_size": 16, "split_shares": (0.5, 0.25, 0.25)},
)

#: A file of an official name that is not there, and a place that is no such file.
_ABSENT = {"path": "breastmnist", "download_root": Of("nowhere")}
_HERE = _ABSENT | {"download_url": "file:///nowhere/{file}"}
_MEDMNIST = Knobs(
    _parts(_medmnist),
    _OF_IMAGES
    | _STORED
    | {
        "path": Turn(Of("other"), "train"),
        "only_classes": Turn(["0", "2"], "classes"),
        "without_classes": Turn(["1"], "classes"),
        "ordinal": Turn(True, "classes"),
        "download": Turn(True, "classes", _HERE, refused="cannot download", refused_before="set download to true"),
        "download_root": Turn(Of("named"), "classes", _ABSENT, refused_before="breastmnist.npz does not exist"),
        "download_url": Turn(
            "file:///elsewhere/{file}", "classes", _ABSENT, refused="/elsewhere/", refused_before="zenodo"
        ),
    },
    {"path": Of("npz"), "batch_size": 2, "image_size": 16},
)

_PHANTOMS = Knobs(
    _parts(_phantoms),
    _OF_IMAGES
    | {
        "root": Turn("elsewhere", "files"),
        "train_images": Turn(18, "sizes"),
        "val_images": Turn(16, "sizes"),
        "test_images": Turn(16, "sizes"),
        "phantom_size": Turn(20, "train"),
        "seed": Turn(1, "train"),
        "cache": Turn(True, "files"),
        "shots_seed": Turn(4, "train", {"shots": 1, "train_images": 40}),
        "only_classes": Turn(["CT*"], "classes"),
        "without_classes": Turn(["CT*"], "classes"),
    },
    {
        "root": "set",
        "train_images": 30,
        "val_images": 15,
        "test_images": 15,
        "phantom_size": 16,
        "batch_size": 2,
        "image_size": 16,
        "cache": False,
    },
)


def _batches(kind: type[Any], split: str, material: Material, folder: Path, options: Options) -> Any:
    made = kind(**options)
    made.setup({"train": "fit", "val": "validate"}.get(split, split))
    return list(getattr(made, f"{split}_dataloader")())


def _texts(kind: type[Any]) -> dict[str, Any]:
    return {split: partial(_batches, kind, split) for split in ("train", "val", "test", "predict")}


_TASKS = {"train": Of("tasks"), "validation": Of("tasks"), "test": Of("tasks"), "predict": Of("tasks")}
_SHOTS = {"test": Of("mbpp"), "prompt_style": "few_shot"}
_ORDER = {"batch_size": Turn(3, "train"), "eval_batch_size": Turn(2, "val"), "seed": Turn(1, "train")}


def _noisy(material: Material, folder: Path, options: Options) -> Any:
    draws = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])
    return NoiseAugmentation(**options)(torch.full((2, 1, 8, 8), 100.0), draws)


DATA: dict[type, Knobs] = {
    RadImageNet: _RADIMAGENET,
    MedMNIST: _MEDMNIST,
    Phantoms: _PHANTOMS,
    NoiseAugmentation: Knobs(
        {"images": _noisy},
        {
            "kind": Turn("rician", "images"),
            "probability": Turn(0.5, "images"),
            "strength": Turn((0.3, 0.4), "images"),
        },
        {"kind": "gaussian"},
    ),
    CodeTasks: Knobs(
        _texts(CodeTasks),
        _ORDER
        | {
            "train": Turn(Of("few"), "train"),
            "validation": Turn(Of("few"), "val"),
            "test": Turn(Of("few"), "test"),
            "predict": Turn(Of("few"), "predict"),
            "prompt_style": Turn("stripped", "test"),
            "shots": Turn(Of("shot"), "test", _SHOTS | {"shots": Of("mbpp")}),
        },
        _TASKS | {"batch_size": 4, "eval_batch_size": 4},
    ),
    Instructions: Knobs(
        _texts(Instructions),
        _ORDER | {"train": Turn(Of("few"), "train"), "validation": Turn(Of("few"), "val")},
        {"train": Of("tasks"), "validation": Of("tasks"), "batch_size": 4, "eval_batch_size": 4},
    ),
    Preferences: Knobs(
        _texts(Preferences),
        _ORDER | {"path": Turn(Of("some"), "train"), "validation_share": Turn(0.5, "val")},
        {"path": Of("pairs"), "validation_share": 0.2, "batch_size": 4, "eval_batch_size": 4},
    ),
}
