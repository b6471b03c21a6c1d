"""k-shot training sets: balanced, seeded by their own seed, and the same wherever they are drawn."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tamis.cli import run
from tamis.datamodules import MedMNIST, Phantoms, RadImageNet
from tamis.datamodules.few_shot import draw_shots
from tamis.datamodules.images import ImageDataModule

NAMES = ["lung", "liver", "brain"]
#: 5 of class 0, 4 of class 1, 3 of class 2, mixed.
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0])


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Each image's grey value is its row, so that an image tells which one it is."""
    arrays: dict[str, object] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None], (12, 28, 28))
        arrays[f"{split}_labels"] = LABELS.numpy().astype(np.uint8)
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path / "set.npz"


def trained_on(data: ImageDataModule) -> list[tuple[int, int]]:
    """Row (by its grey value) and label of every image of an epoch, sorted."""
    data.setup("fit")
    batches = list(data.train_dataloader())
    rows: Tensor = torch.cat([batch.images.amax(dim=(1, 2, 3)) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    return sorted(zip(rows.tolist(), labels.tolist(), strict=True))


def test_every_class_gives_as_many_rows_and_none_twice() -> None:
    rows = draw_shots(LABELS, NAMES, 3, seed=0)
    assert LABELS[rows].bincount().tolist() == [3, 3, 3]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_the_seed_decides_and_nothing_else() -> None:
    first = draw_shots(LABELS, NAMES, 2, seed=7)
    torch.manual_seed(99)
    torch.rand(5)
    assert draw_shots(LABELS, NAMES, 2, seed=7).tolist() == first.tolist()
    assert len({tuple(draw_shots(LABELS, NAMES, 2, seed).tolist()) for seed in range(10)}) > 5


def test_drawing_leaves_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    draw_shots(LABELS, NAMES, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_fewer_shots_are_among_more() -> None:
    for seed in range(5):
        draws = [set(draw_shots(LABELS, NAMES, shots, seed).tolist()) for shots in (1, 2, 3)]
        assert draws[0] < draws[1] < draws[2]


def test_every_image_of_a_class_is_as_likely() -> None:
    counts = torch.zeros(12)
    for seed in range(600):
        counts[draw_shots(LABELS, NAMES, 1, seed)] += 1
    # 600 draws of 1 in 5, 4 and 3: means 120, 150, 200 with standard deviations 9.8, 10.6 and 11.5.
    expected = torch.tensor([120.0, 150.0, 200.0])[LABELS]
    assert ((counts - expected).abs() < 4 * 11.5).all()


def test_a_class_with_too_few_is_named_with_its_count() -> None:
    with pytest.raises(ValueError, match=r"shots asks for 4 .* of each class, but fewer are there of brain \(3\);"):
        draw_shots(LABELS, NAMES, 4, seed=0)
    with pytest.raises(ValueError, match=r"heart \(0\)"):
        draw_shots(LABELS, [*NAMES, "heart"], 1, seed=0)


def test_the_datamodule_trains_on_the_shots_and_evaluates_on_everything(npz: Path) -> None:
    data = MedMNIST(str(npz), batch_size=4, crop_scale=(1.0, 1.0), shots=2, shots_seed=3)
    rows = draw_shots(LABELS, ["0", "1", "2"], 2, seed=3)
    expected = sorted(zip(rows.tolist(), LABELS[rows].tolist(), strict=True))
    assert trained_on(data) == expected  # the last batch, of 2, too
    assert trained_on(data) == expected  # and the same in the next epoch
    data.setup("test")
    assert [data.split(name).images for name in ("train", "val", "test")] == [6, 12, 12]
    assert data.num_classes == 3


def test_workers_read_the_same_images(npz: Path) -> None:
    here, there = (
        MedMNIST(str(npz), batch_size=3, crop_scale=(1.0, 1.0), num_workers=workers, shots=2) for workers in (0, 2)
    )
    assert trained_on(here) == trained_on(there)


def test_no_shots_is_everything(npz: Path) -> None:
    assert [row for row, _ in trained_on(MedMNIST(str(npz), batch_size=4, crop_scale=(1.0, 1.0)))] == list(range(12))


@pytest.mark.parametrize(
    ("batch_size", "shots", "batches"),
    [
        (4, 2, [4, 2]),  # of few images none is to spare
        (5, 2, [5]),  # but one alone is no batch for batch normalisation
        (20, 2, [6]),  # fewer than a batch is one
        (6, 2, [6]),
        (5, None, [5, 5]),  # all 12: the last two are left out, as ever
    ],
)
def test_sizes_of_the_batches(npz: Path, batch_size: int, shots: int | None, batches: list[int]) -> None:
    data = MedMNIST(str(npz), batch_size=batch_size, shots=shots)
    data.setup("fit")
    assert [len(batch.labels) for batch in data.train_dataloader()] == batches


@pytest.mark.parametrize("cache", [True, False])
def test_csv_images_and_phantoms_take_shots_too(tmp_path: Path, cache: bool) -> None:
    root = str(tmp_path / "set")
    drawn = Phantoms(root, 60, 15, 15, phantom_size=32, image_size=32, cache=cache, shots=1, shots_seed=4)
    drawn.prepare_data()
    read = RadImageNet(root, batch_size=8, image_size=32, cache=cache, shots=1, shots_seed=4, class_list="found")
    whole = RadImageNet(root, image_size=32, class_list="found")
    whole.setup("fit")
    rows = draw_shots(whole.split("train").labels, whole.class_names, 1, seed=4).tolist()
    for data in (drawn, read):
        data.setup("fit")
        assert data.split("train").labels.bincount().tolist() == [1] * 15
        for position, row in enumerate(rows):
            assert torch.equal(data.split("train").source.read(position), whole.split("train").source.read(row))
    with pytest.raises(ValueError, match=r"CT__abd__ascites \(1\).*class_list: found"):
        RadImageNet(str(tmp_path / "set"), image_size=32, shots=2, class_list="found").setup("fit")


@pytest.mark.parametrize(("shots", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_impossible_shots(npz: Path, shots: int, seed: int) -> None:
    with pytest.raises(ValueError, match="shots must be at least 1"):
        MedMNIST(str(npz), shots=shots, shots_seed=seed)


def test_one_flag_of_the_command_line(tmp_path: Path) -> None:
    config = files("tamis.configs") / "quickstart" / "phantoms_baseline.yaml"
    flags = ["--data.shots=2", "--data.shots_seed=5", "--data.train_images=150", "--data.val_images=15"]
    flags += ["--data.test_images=15", f"--data.root={tmp_path / 'phantoms'}", "--data.batch_size=16"]
    flags += ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", f"--run_dir={tmp_path / 'run'}"]
    cli = run(["fit", f"--config={config}", *flags])
    assert isinstance(cli.datamodule, Phantoms)
    assert cli.datamodule.split("train").labels.bincount().tolist() == [2] * 15
    assert cli.trainer.num_training_batches == 2  # 16 and 14
