"""Synthetic stand-in for RadImageNet: drawn once into its folder tree and CSVs, then read by the same code."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .image_csv import COLUMNS
from .layouts import CSV_NAME
from .noise_augmentation import NoiseAugmentation
from .phantom_drawing import Canvas, ct_abdomen, ct_lung, mr_brain, us_abdomen, us_thyroid
from .radimagenet import RadImageNet
from .sampling import Sampling

SETTINGS_FILE = "phantoms.json"
#: Raised whenever the same settings draw other files, so that a folder of the old ones is not taken for the new.
DRAWING_VERSION = 1


class PhantomClass(NamedTuple):
    """One class, named as RadImageNet names it.

    Args:
        label: ``<anatomy>-<pathology>``.
        folder: under ``radiology_ai``.
        stem: of the file names.
        share: of all images; the shares sum to 1 and fall off in a long tail.
    """

    label: str
    folder: str
    stem: str
    share: float


CLASSES = (
    PhantomClass("abd-normal", "CT/abd/normal", "abd-normal", 0.16),
    PhantomClass("lung-normal", "CT/lung/normal", "lung-normal", 0.12),
    PhantomClass("brain-normal", "MR/brain/normal", "brain-normal", 0.12),
    PhantomClass("usabd-liver", "US/liver", "usn", 0.10),
    PhantomClass("usthyroid-thyroid", "US/thyroid", "usn", 0.09),
    PhantomClass("abd-liver_lesion", "CT/abd/liver_lesion", "abd-liver", 0.08),
    PhantomClass("lung-Airspace_opacity", "CT/lung/Airspace_opacity", "lung", 0.07),
    PhantomClass("brain-acute_infarct", "MR/brain/acute_infarct", "brain", 0.06),
    PhantomClass("usthyroid-thyroid_nodule", "US/thyroid_nodule", "usn", 0.05),
    PhantomClass("lung-Nodule", "CT/lung/Nodule", "lung", 0.04),
    PhantomClass("brain-white_matter_changes", "MR/brain/white_matter_changes", "brain", 0.03),
    PhantomClass("abd-renal_lesion", "CT/abd/renal_lesion", "abd-renal", 0.025),
    PhantomClass("usabd-gb", "US/gb", "usn", 0.02),
    PhantomClass("brain-edema", "MR/brain/edema", "brain", 0.02),
    PhantomClass("abd-ascites", "CT/abd/ascites", "abd-ascites", 0.015),
)


class Phantoms(RadImageNet):
    """Synthetic CT, MR and ultrasound images of 15 long-tailed classes, generated on first use.

    Args:
        root: folder to generate into, or one generated earlier with the same settings.
        train_images: number of training images.
        val_images: number of validation images.
        test_images: number of test images.
        phantom_size: pixels a side of the files.
        seed: of the images; the same seed gives the same files.
        batch_size: images a step.
        image_size: pixels a side of the batches.
        eval_resize: see `ImageDataModule`.
        crop_scale: see `ImageDataModule`.
        flip: see `ImageDataModule`.
        mean: of the phantoms.
        std: of the phantoms.
        cache: see `RadImageNet`.
        num_workers: loader processes.
        shots: see `ImageDataModule`.
        shots_seed: see `ImageDataModule`.
        noise: of scanners, on training images; see `NoiseAugmentation`.
        sampling: see `ImageDataModule`.
        data_seed: see `ImageDataModule`.
        only_classes: see `ImageDataModule`.
        without_classes: see `ImageDataModule`.
    """

    def __init__(
        self,
        root: str = "data/phantoms",
        train_images: int = 4000,
        val_images: int = 1000,
        test_images: int = 2000,
        phantom_size: int = 64,
        seed: int = 0,
        batch_size: int = 64,
        image_size: int = 64,
        eval_resize: int | None = None,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        flip: float = 0.5,
        mean: float = 0.22,
        std: float = 0.21,
        cache: bool = True,
        num_workers: int = 0,
        shots: int | None = None,
        shots_seed: int = 0,
        noise: NoiseAugmentation | None = None,
        sampling: Sampling = "uniform",
        data_seed: int | None = None,
        only_classes: list[str] | None = None,
        without_classes: list[str] | None = None,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            image_size,
            eval_resize,
            crop_scale,
            flip,
            mean,
            std,
            cache,
            num_workers,
            shots,
            shots_seed,
            noise,
            stored_size=phantom_size,  # what the files are, so that crops lose nothing
            sampling=sampling,
            data_seed=data_seed,
            only_classes=only_classes,
            without_classes=without_classes,
            class_list="found",  # 15 of RadImageNet's 165
        )
        sizes = {"train": train_images, "val": val_images, "test": test_images}
        too_small = {split: size for split, size in sizes.items() if size < len(CLASSES)}
        if too_small or phantom_size < 16:
            raise ValueError(
                f"every split needs at least {len(CLASSES)} images, one a class, and phantom_size at least 16, "
                f"got {sizes} and {phantom_size}"
            )
        self.sizes, self.phantom_size, self.seed = sizes, phantom_size, seed
        self.settings = {"version": DRAWING_VERSION, "sizes": sizes, "phantom_size": phantom_size, "seed": seed}

    def prepare_data(self) -> None:
        """Draw the images, unless the root has them already, and cache them.

        Raises:
            FileExistsError: if the root holds something else.
        """
        if self.root.exists():
            self._check_settings()
        else:
            self._generate()
        super().prepare_data()

    def _check_settings(self) -> None:
        settings_file = self.root / SETTINGS_FILE
        found = json.loads(settings_file.read_text()) if settings_file.is_file() else "no phantoms"
        if found != self.settings:
            raise FileExistsError(
                f"{self.root} holds {found}, but the options ask for {self.settings}; "
                "choose another root, or remove that folder to draw it again"
            )

    def _generate(self) -> None:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        # Drawn beside the root and renamed at the end: an interrupted run leaves no half set behind.
        with tempfile.TemporaryDirectory(dir=self.root.parent, prefix=f".{self.root.name}-") as scratch:
            folder = Path(scratch) / "phantoms"
            folder.mkdir()
            first = 1
            for number, (split, size) in enumerate(self.sizes.items()):
                write_split(folder, split, size, self.phantom_size, self.seed * len(self.sizes) + number, first)
                first += size
            (folder / SETTINGS_FILE).write_text(json.dumps(self.settings, indent=2) + "\n")
            shutil.move(folder, self.root)


def write_split(folder: Path, split: str, images: int, size: int, seed: int, first: int) -> None:
    """Draw one split: PNG files in RadImageNet's tree, and its CSV in shuffled order.

    Args:
        folder: the root.
        split: ``train``, ``val`` or ``test``.
        images: how many.
        size: pixels a side.
        seed: of the drawing and the order.
        first: number of the first file; the splits share their folders, so no two may use the same numbers.
    """
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    rows: list[tuple[str, str]] = []
    for kind, count in zip(CLASSES, class_counts(images), strict=True):
        drawn = draw_class(kind.label, Canvas(count, size, generator))
        (folder / "radiology_ai" / kind.folder).mkdir(parents=True, exist_ok=True)
        for pixels in drawn.numpy():
            name = f"radiology_ai/{kind.folder}/{kind.stem}{first + len(rows):06d}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append((name, kind.label))
    order = torch.randperm(len(rows), generator=generator).tolist()
    with (folder / CSV_NAME.format(split=split)).open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *(rows[position] for position in order)])


def class_counts(images: int) -> list[int]:
    """How many of ``images`` each class gets: its share, at least one; the first class takes the rounding."""
    counts = [max(1, int(kind.share * images)) for kind in CLASSES]
    counts[0] += images - sum(counts)
    return counts


def draw_class(label: str, canvas: Canvas) -> Tensor:
    """``[count, size, size]`` uint8 images of a class."""
    anatomy, pathology = label.split("-")
    if anatomy == "abd":
        image = ct_abdomen(canvas, pathology)
    elif anatomy == "lung":
        image = ct_lung(canvas, pathology)
    elif anatomy == "brain":
        image = mr_brain(canvas, pathology)
    elif anatomy == "usabd":
        image = us_abdomen(canvas, pathology)
    else:
        image = us_thyroid(canvas, "nodule" if pathology.endswith("nodule") else "normal")
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)
