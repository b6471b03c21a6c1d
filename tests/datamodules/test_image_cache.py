"""The cache on disk: the same pixels, keyed by content and size, whole or absent, and read-only."""

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from hashlib import sha256
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tamis.datamodules import image_cache
from tamis.datamodules.image_cache import MappedImages, cached_images
from tamis.datamodules.image_files import FileImages
from tamis.datamodules.image_sources import SquareCrop
from tamis.datamodules.image_table import ImageTable

SQUARE = SquareCrop(20, 16)
NAMES = [f"{number}.png" for number in range(7)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for number, name in enumerate(NAMES):
        pixels = draw.integers(0, 255, (20 + number, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / name)
    return tmp_path / "set"


def source(root: Path, **options: object) -> FileImages:
    return FileImages(root, ImageTable("train.csv", NAMES, ["a"] * len(NAMES)), **options)  # type: ignore[arg-type]


def hashes(root: Path) -> list[str]:
    return [sha256((root / name).read_bytes()).hexdigest() for name in NAMES]


def cached(root: Path, square: SquareCrop = SQUARE, threads: int = 1, **options: object) -> MappedImages:
    return cached_images(source(root, **options), square, hashes(root), root / ".tamis", "train", threads)


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_cache_holds_what_the_files_give(
    root: Path, color: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "CHUNK", 3)  # several, the last one smaller
    files, images = source(root, color=color), cached(root, threads=threads, color=color)
    everything = list(range(len(NAMES)))
    assert len(images) == len(files)
    expected = files.read_batch(everything, SQUARE)
    assert torch.equal(images.read_batch(everything, SQUARE), expected)
    assert torch.equal(images.read_batch([4, 1, 4], SQUARE), expected[[4, 1, 4]])
    assert torch.equal(images.read(5), expected[5])


def test_it_is_made_once_and_needs_no_file_any_more(root: Path) -> None:
    first = cached(root)
    known = hashes(root)
    for name in NAMES:
        (root / name).write_bytes(b"gone")
    again = cached_images(source(root), SQUARE, known, root / ".tamis", "train")
    assert again.file == first.file
    assert torch.equal(again.read_batch([0, 6], SQUARE), first.read_batch([0, 6], SQUARE))


def test_other_content_or_options_are_another_cache(root: Path) -> None:
    made = {cached(root).file}
    made.add(cached(root, SquareCrop(16, 16)).file)
    made.add(cached(root, SquareCrop(12, 12)).file)
    made.add(cached(root, color="rgb").file)
    made.add(cached(root, intensity_range=(0.0, 9.0)).file)
    Image.new("L", (20, 20), 7).save(root / NAMES[2])
    changed = cached(root)
    made.add(changed.file)
    assert len(made) == 6
    assert changed.read(2).unique().tolist() == [7]


def test_other_slices_of_the_same_volumes_are_another_cache(tmp_path: Path) -> None:
    keys = set()
    for slices in ([0, 1], [0, 2], None):
        table = ImageTable("train.csv", ["v.nii", "v.nii"], ["a", "b"], slices=slices)
        keys.add(image_cache.cache_key(["x", "x"], FileImages(tmp_path, table), SQUARE))
    assert len(keys) == 3


def test_items_are_copies_and_the_file_is_read_only(root: Path) -> None:
    images = cached(root)
    before = images.file.read_bytes()
    images.read(0).fill_(9)
    images.read_batch([0, 1], SQUARE).fill_(9)
    assert images.file.read_bytes() == before
    assert not images._images.flags.writeable


def test_a_broken_image_is_named_and_leaves_nothing_behind(root: Path) -> None:
    (root / NAMES[3]).write_bytes((root / NAMES[3]).read_bytes()[:60])
    with pytest.raises(RuntimeError, match=r"3\.png \(train.csv\).*audit: drop"):
        cached(root)
    assert list((root / ".tamis").iterdir()) == []


def _die_while_decoding(root: Path) -> None:
    def read(self: FileImages, index: int) -> torch.Tensor:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 16, 16, dtype=torch.uint8)

    FileImages.read = read  # type: ignore[method-assign]
    cached(root)


def test_a_killed_maker_leaves_no_half_cache(root: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_while_decoding, args=(root,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert torch.equal(cached(root).read(6), source(root).read_batch([6], SQUARE)[0])


def _make(root: Path, start: Barrier) -> None:
    start.wait(20)
    cached(root)


def test_two_makers_at_once(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    makers = [context.Process(target=_make, args=(root, start)) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(30)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert len([path for path in (root / ".tamis").iterdir() if not path.name.startswith(".")]) == 1


def test_another_size_is_not_made_of_the_cache(root: Path) -> None:
    with pytest.raises(ValueError, match=r"resize=20, size=16.*, not of .*resize=16"):
        cached(root).read_batch([0], SquareCrop(16, 16))


def test_what_killed_makers_left_is_taken_away_after_a_while(root: Path) -> None:
    made = cached(root).file.parent
    for name, age in (("fresh", 0), ("old", 4000)):
        part = made.parent / f".{made.name}-{name}" / "part"
        part.mkdir(parents=True)
        (part / "images.npy").write_bytes(b"half")
        os.utime(part / "images.npy", (time.time() - age,) * 2)
    shutil.rmtree(made)
    cached(root)
    assert sorted(path.name for path in made.parent.iterdir()) == [f".{made.name}-fresh", made.name]


def test_a_pickled_cache_is_its_name(root: Path) -> None:
    images = cached(root)
    packed = pickle.dumps(images)
    assert len(packed) < 1000
    assert torch.equal(pickle.loads(packed).read(2), images.read(2))


def test_too_little_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Disk())
    with pytest.raises(OSError, match=r"needs 0.0 GB .* has 0.0 GB free; name a larger disk by cache_dir"):
        cached(root)


class _Disk:
    free = 100


def test_a_folder_that_cannot_be_made(root: Path) -> None:
    (root / ".tamis").write_text("a file")
    with pytest.raises(OSError, match="cannot make the cache's folder .* name another by cache_dir"):
        cached(root)
