import hashlib
from collections import Counter
from pathlib import Path

import pytest
import torch

from tamis.datamodules import Phantoms, RadImageNet
from tamis.datamodules.phantom_drawing import Canvas
from tamis.datamodules.phantoms import CLASSES, class_counts, draw_class


def phantoms(root: Path, seed: int = 0, train_images: int = 60) -> Phantoms:
    return Phantoms(
        str(root), train_images, val_images=20, test_images=20, phantom_size=32, seed=seed, batch_size=10, image_size=32
    )


def digest(root: Path) -> str:
    files = sorted(root.rglob("*.png")) + sorted(root.glob("*.csv"))
    content = b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def test_the_seed_decides_every_file(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        phantoms(tmp_path / name, seed).prepare_data()
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_splits_share_no_image(tmp_path: Path) -> None:
    phantoms(tmp_path / "set").prepare_data()
    images = [path.read_bytes() for path in (tmp_path / "set").rglob("*.png")]
    assert len(set(images)) == len(images) == 60 + 20 + 20


def test_radimagenet_reads_them_unchanged(tmp_path: Path) -> None:
    phantoms(tmp_path / "set").prepare_data()
    data = RadImageNet(str(tmp_path / "set"), batch_size=10, image_size=32)
    data.setup("fit")
    assert data.num_classes == 165
    found = RadImageNet(str(tmp_path / "set"), batch_size=10, image_size=32, class_list="found")
    assert found.class_names == sorted(kind.folder.replace("/", "__") for kind in CLASSES)
    rows = (tmp_path / "set" / "RadiologyAI_train.csv").read_text().splitlines()
    assert rows[0] == "filename,label"
    assert len(rows) == 61
    assert (tmp_path / "set" / "radiology_ai" / "CT" / "abd" / "normal").is_dir()
    assert next(iter(data.train_dataloader())).images.shape == (10, 1, 32, 32)


def test_images_are_drawn_once(tmp_path: Path) -> None:
    data = phantoms(tmp_path / "set")
    data.prepare_data()
    before = digest(tmp_path / "set")
    data.prepare_data()
    assert digest(tmp_path / "set") == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no scratch folder stays behind


def test_what_is_drawn_is_cached_at_the_size_of_the_files(tmp_path: Path) -> None:
    phantoms(tmp_path / "set").prepare_data()
    data = Phantoms(str(tmp_path / "set"), 60, 20, 20, phantom_size=32, batch_size=10, image_size=24)
    data.prepare_data()
    for file in (tmp_path / "set").rglob("*.png"):
        file.unlink()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape[-2:] == (32, 32)  # crops come of all the detail there is
    assert data.on_after_batch_transfer(batch, 0).images.shape[-2:] == (24, 24)


def test_folder_of_other_settings_is_left_alone(tmp_path: Path) -> None:
    phantoms(tmp_path / "set").prepare_data()
    with pytest.raises(FileExistsError, match="choose another root"):
        phantoms(tmp_path / "set", seed=1).prepare_data()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds no phantoms"):
        phantoms(tmp_path / "mine").prepare_data()


def test_interrupted_drawing_leaves_no_half_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(label: str, canvas: Canvas) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("tamis.datamodules.phantoms.draw_class", interrupt)
    with pytest.raises(KeyboardInterrupt):
        phantoms(tmp_path / "set").prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_classes_have_a_long_tail_and_none_is_missing() -> None:
    assert sum(kind.share for kind in CLASSES) == pytest.approx(1)
    counts = class_counts(2000)
    assert sum(counts) == 2000
    assert max(counts) > 8 * min(counts)
    assert min(class_counts(len(CLASSES))) == 1
    assert {kind.folder.split("/")[0] for kind in CLASSES} == {"CT", "MR", "US"}
    assert max(Counter(kind.folder for kind in CLASSES).values()) == 1


def test_modality_is_an_easy_cue_and_pathology_a_subtle_one() -> None:
    def mean_image(label: str) -> torch.Tensor:
        return draw_class(label, Canvas(200, 32, torch.Generator().manual_seed(0))).float().mean(dim=0)

    between = (mean_image("abd-normal") - mean_image("brain-normal")).abs().mean()
    within = (mean_image("abd-normal") - mean_image("abd-liver_lesion")).abs().mean()
    assert between > 10 * within > 0


def test_impossible_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one a class"):
        phantoms(tmp_path / "set", train_images=3)
