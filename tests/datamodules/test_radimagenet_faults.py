"""A folder as it comes: copies, blanks, a file that broke off, one that is missing, two labels for one image."""

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tamis.cli import run
from tamis.datamodules import RadImageNet

Rows = list[list[str]]


@pytest.fixture
def faulty(phantoms: Path, tmp_path: Path) -> Path:
    """Phantoms with eight rows that should not train: the first of the copies may."""
    root = tmp_path / "set"
    shutil.copytree(phantoms, root, ignore=shutil.ignore_patterns(".tamis"))
    file = root / "RadiologyAI_train.csv"
    rows: Rows = list(csv.reader(file.read_text().splitlines()))
    blank, torn, missing, copied = (root / row[0] for row in rows[1:5])
    Image.new("L", Image.open(blank).size, 0).save(blank)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    missing.unlink()
    added = _copies(copied, rows[4][1], root)
    file.write_text("\n".join(",".join(row) for row in [*rows, *added]) + "\n")
    return root


def _copies(image: Path, label: str, root: Path) -> Rows:
    """A copy within its class, and a second image under two classes."""
    again = image.with_name("again000001.png")
    shutil.copy(image, again)
    first, second = (root / "radiology_ai" / folder / "both000001.png" for folder in ("US/gb", "MR/brain/edema"))
    Image.linear_gradient("L").resize((48, 48)).save(first)
    shutil.copy(first, second)
    labels = (label, "usabd-gb", "brain-edema")
    return [[str(path.relative_to(root)), name] for path, name in zip((again, first, second), labels, strict=True)]


def data(root: Path, **options: object) -> RadImageNet:
    return RadImageNet(str(root), batch_size=8, image_size=32, **options)  # type: ignore[arg-type]


def test_drop_trains_on_the_sound_images(faulty: Path, tmp_path: Path) -> None:
    # 30 and three added; without a blank, a torn, a missing, a copy and the two that contradict each other.
    options = ["--data.audit=drop", "--data.cache=true", "--data.image_size=32", "--data.batch_size=8"]
    options += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    command = ["fit", "--model=ImageClassifier", "--model.backbone=test_resnet", "--data=RadImageNet"]
    cli = run([*command, f"--data.root={faulty}", f"--run_dir={tmp_path / 'run'}", *options])
    assert isinstance(cli.datamodule, RadImageNet)
    assert cli.datamodule.split("train").images == 33 - 6
    assert cli.trainer.num_training_batches == 3
    with (faulty / ".tamis" / "audit.csv").open() as file:
        kinds = [row["kind"] for row in csv.DictReader(file) if row["dropped"] == "yes"]
    assert sorted(set(kinds)) == ["blank", "duplicate", "label_conflict", "missing", "unreadable"]


def test_raise_refuses_before_training(faulty: Path) -> None:
    module = data(faulty, audit="raise")
    module.prepare_data()
    with pytest.raises(ValueError, match=r"(?s)have faults: .*1 missing.*drop leaves the faulty images out"):
        module.setup("fit")


def test_with_a_cache_too_every_process_refuses(faulty: Path) -> None:
    """Not in `prepare_data`, which runs on one process: the others would wait for it for ever."""
    module = data(faulty, audit="raise", cache=True)
    module.prepare_data()
    with pytest.raises(ValueError, match="have faults"):
        module.setup("fit")


@pytest.mark.parametrize("audit", ["off", "keep"])
def test_otherwise_the_first_broken_image_is_named(faulty: Path, audit: str) -> None:
    module = data(faulty, audit=audit)
    module.prepare_data()
    module.setup("fit")
    assert module.split("train").images == 33
    with pytest.raises(RuntimeError, match=r"cannot read the image .*RadiologyAI_train.csv, line [34]\).*audit: drop"):
        list(module.train_dataloader())


def test_other_processes_leave_out_the_same(faulty: Path) -> None:
    first = data(faulty, audit="drop")
    first.prepare_data()
    first.setup("fit")
    other = data(faulty, audit="drop")  # a rank that prepares nothing
    other.setup("fit")
    assert other.tables == first.tables
