import io
import os
import re
import shutil
import signal
from hashlib import sha256
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
from PIL import Image

from tamis.datamodules.image_files import read_image
from tamis.datamodules.manifest import (
    MISSING,
    FileRecord,
    content_hashes,
    manifest_folder,
    read_manifest,
    write_atomically,
    write_manifest,
)
from tamis.datamodules.scanning import CHUNK, changed_files, read_record, scan_files, update_manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve grey images of noise, two a folder."""
    draw = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / f"{number // 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (10 + number, 20), dtype=np.uint8)).save(path)
    return tmp_path


def names(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


# One file


def test_record_of_a_small_image_worked_out_by_hand(tmp_path: Path) -> None:
    # Grey values 0, 51, 102, 255 of 255 are 0, 0.2, 0.4, 1: mean 1.6 / 4, mean square (0.04 + 0.16 + 1) / 4.
    path = save(tmp_path / "a.png", np.array([[0, 51], [102, 255]], dtype=np.uint8))
    record = read_record(tmp_path, "a.png")
    assert record.mean == pytest.approx(0.4, abs=1e-12)
    assert record.mean_square == pytest.approx(0.3, abs=1e-12)
    assert record[5:9] == (2, 2, 1, "L")
    assert (record.smallest, record.largest, record.blank_slices, record.error) == (0, 255, "", "")
    assert record.sha256 == sha256(path.read_bytes()).hexdigest()
    assert (record.size, record.modified) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_grey_levels_are_those_of_the_reader(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    save(tmp_path / "a.png", pixels, mode)
    record, grey = read_record(tmp_path, "a.png"), read_image(tmp_path / "a.png").double() / 255
    assert record.mode == mode
    assert record.mean == pytest.approx(float(grey.mean()), abs=1e-12)
    assert record.mean_square == pytest.approx(float((grey**2).mean()), abs=1e-12)
    assert (record.width, record.height) == (14, 9)


def test_the_same_pixels_have_the_same_hash_however_they_are_stored(tmp_path: Path) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (8, 12), dtype=np.uint8)
    image = Image.fromarray(grey)
    image.save(tmp_path / "grey.png")
    image.save(tmp_path / "packed.png", compress_level=0)
    image.convert("RGB").save(tmp_path / "three.png")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.save(tmp_path / "lossless.tif")
    records = [read_record(tmp_path, path.name) for path in sorted(tmp_path.iterdir())]
    assert len({record.pixels for record in records}) == 1
    assert len({record.sha256 for record in records}) == 6


def test_other_pixels_shapes_and_colours_have_other_hashes(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    save(tmp_path / "a.png", grey)
    save(tmp_path / "turned.png", grey.reshape(6, 4))
    save(tmp_path / "changed.png", np.where(grey == 23, 24, grey).astype(np.uint8))
    colours = np.stack([grey, grey, grey], axis=-1)
    colours[0, 0] = (1, 0, 0)  # its luminance is 0, as in the grey image
    save(tmp_path / "red.png", colours)
    colours[0, 0] = (0, 0, 1)
    save(tmp_path / "blue.png", colours)
    records = {path.name: read_record(tmp_path, path.name) for path in tmp_path.iterdir()}
    assert len({record.mean for name, record in records.items() if name in ("a.png", "red.png", "blue.png")}) == 1
    assert len({record.pixels for record in records.values()}) == 5


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA", "1"])
def test_one_value_everywhere_is_blank(tmp_path: Path, mode: str) -> None:
    save(tmp_path / "blank.png", np.full((6, 5, 3), 255, dtype=np.uint8), mode)
    save(tmp_path / "almost.png", np.pad(np.zeros((1, 1), np.uint8), 2, constant_values=255), mode)
    assert read_record(tmp_path, "blank.png").blank_slices == "0"
    assert read_record(tmp_path, "almost.png").blank_slices == ""


def test_colours_of_equal_luminance_are_not_blank(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 3), dtype=np.uint8)
    colours[0, 0] = (1, 0, 0)
    save(tmp_path / "a.png", colours)
    save(tmp_path / "red.png", np.broadcast_to(colours[0, 0], (2, 2, 3)).copy())
    assert read_record(tmp_path, "a.png")[11:14] == (0, 0, "")
    assert read_record(tmp_path, "red.png").blank_slices == "0"


def test_sixteen_bits_and_volumes_go_through_the_readers(tmp_path: Path) -> None:
    deep = np.linspace(0, 60000, 400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    volume = np.random.default_rng(3).normal(size=(7, 5, 4)).astype(np.float32)
    volume[..., 2], volume[..., 3] = 1.5, np.nan
    np.save(tmp_path / "volume.npy", volume)
    np.save(tmp_path / "nothing.npy", np.full((5, 4), np.nan))
    deep_record, record = read_record(tmp_path, "deep.png"), read_record(tmp_path, "volume.npy")
    grey = read_image(tmp_path / "deep.png").double() / 255
    assert deep_record.mean == pytest.approx(float(grey.mean()), abs=1e-12)
    assert (deep_record.width, deep_record.height, deep_record.blank_slices) == (20, 20, "")
    assert (record.error, record.depth, record.blank_slices) == ("", 4, "2 3")
    assert "finite" in read_record(tmp_path, "nothing.npy").error


def test_a_broken_file_is_a_record_with_its_error(root: Path) -> None:
    whole = (root / "0/0.png").read_bytes()
    (root / "0/0.png").write_bytes(whole[: len(whole) // 2])
    (root / "0/1.png").write_bytes(b"not a picture")
    (root / "1/2.png").write_bytes(b"")
    (root / "1/3.png").unlink()
    (root / "2/4.png").unlink()
    (root / "2/4.png").mkdir()
    (root / "note.nii.gz").write_bytes(b"neither is this")
    files = ["0/0.png", "0/1.png", "1/2.png", "1/3.png", "2/4.png", "2/5.png/inside.png", "note.nii.gz"]
    truncated, text, empty, missing, folder, inside, medical = scan_files(root, files)
    assert "truncated" in truncated.error
    assert truncated.sha256 == sha256(whole[: len(whole) // 2]).hexdigest()
    assert text.error == "the file is no image that Pillow knows"
    assert empty.error == "the file is empty"
    assert missing == FileRecord("1/3.png", -1, 0, error=MISSING)
    assert "directory" in folder.error
    assert inside.error == MISSING
    assert medical.error
    assert "\n" not in medical.error


# Many files


def test_one_and_two_workers_agree(root: Path) -> None:
    (root / "0/1.png").write_bytes(b"not a picture")
    files = names(root) * 7  # more than a thread takes at a time
    assert list(scan_files(root, files, workers=1)) == list(scan_files(root, files, workers=2))


def test_manifest_loads_back_exactly(root: Path) -> None:
    (root / "0/0.png").write_bytes(b"broken")
    strange = 'a, "b"\nnew line ü.png'
    shutil.copy(root / "0/1.png", root / strange)
    files = [*names(root), "nowhere.png"]
    assert strange in files
    written = update_manifest(root, files)
    assert list(read_manifest(root / ".tamis")) == sorted(written)
    assert read_manifest(root / ".tamis") == written
    assert all(written[file].file == file for file in files)


def test_manifest_is_reused_until_size_or_time_change(root: Path) -> None:
    files = names(root)
    before = update_manifest(root, files)
    path, status = root / "0/0.png", (root / "0/0.png").stat()
    save(path, np.zeros((10, 20), dtype=np.uint8))
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert update_manifest(root, files) == before  # so it was not read
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = update_manifest(root, files)
    assert after["0/0.png"].blank_slices == "0"
    assert {file for file in files if after[file] != before[file]} == {"0/0.png"}


def test_an_unchanged_manifest_is_not_written_again(root: Path) -> None:
    (root / "0/0.png").write_bytes(b"broken")
    files = [*names(root), "nowhere.png"]
    update_manifest(root, files)
    file = root / ".tamis" / "manifest.csv"
    first = file.stat()
    update_manifest(root, files)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_what_was_missing_or_broken_is_looked_at_again(root: Path) -> None:
    whole = (root / "0/0.png").read_bytes()
    (root / "0/0.png").unlink()
    (root / "0/1.png").write_bytes(b"broken")
    files = [*names(root), "0/0.png"]
    known = update_manifest(root, files)
    assert changed_files(root, files, known) == ["0/1.png"]
    (root / "0/0.png").write_bytes(whole)
    assert update_manifest(root, files)["0/0.png"].error == ""
    (root / "0/0.png").unlink()
    assert update_manifest(root, files)["0/0.png"].error == MISSING


def test_records_of_other_files_stay(root: Path) -> None:
    files = names(root)
    update_manifest(root, files[:5])
    assert sorted(update_manifest(root, files[5:])) == sorted(files)


def test_an_interrupted_scan_is_continued(root: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    files = [f"copies/{number:02d}.png" for number in range(2 * CHUNK)]
    (root / "copies").mkdir()
    for file in files:
        shutil.copy(root / "0/0.png", root / file)
    (root / files[CHUNK + 3]).unlink()
    os.mkfifo(root / files[CHUNK + 3])  # whoever opens it waits for a writer that never comes
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        update_manifest(root, files)
    signal.signal(signal.SIGALRM, before)
    known = read_manifest(root / ".tamis")
    assert list(known) == files[:CHUNK]
    assert changed_files(root, files, known) == files[CHUNK:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace(",error,version", ",error,vision"), "another version"),
        (lambda text: text[:-1].rstrip("1") + "0\n", "line 13 is cut short or of another version"),
        (lambda text: text[: len(text) // 2], "is cut short"),
        (lambda text: text[: text.rindex(",L,")], "line 13 is cut short"),  # in front of it stands a 1, like a version
        (lambda text: "", "another version, or none"),
        (lambda text: text.replace(",20,", ",twenty,", 1), r"line 2: .*'twenty'"),
    ],
)
def test_a_damaged_manifest_is_made_anew_and_says_so(
    root: Path, caplog: pytest.LogCaptureFixture, damage: object, message: str
) -> None:
    files = names(root)
    whole = update_manifest(root, files)
    file = root / ".tamis" / "manifest.csv"
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    with caplog.at_level("INFO"):
        assert read_manifest(root / ".tamis") == {}
    assert re.search(message, caplog.text)
    assert "scanned again" in caplog.text
    assert update_manifest(root, files) == whole
    assert read_manifest(root / ".tamis") == whole


def test_an_interrupted_write_leaves_the_earlier_manifest(root: Path) -> None:
    files = names(root)
    known = update_manifest(root, files)

    def fail(handle: TextIO) -> None:
        handle.write("half a ")
        handle.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(root / ".tamis" / "manifest.csv", fail)
    assert read_manifest(root / ".tamis") == known
    assert [path.name for path in (root / ".tamis").iterdir()] == ["manifest.csv"]


def test_a_killed_writer_leaves_the_earlier_manifest(root: Path) -> None:
    def die(handle: TextIO) -> None:
        handle.write("half a ")
        handle.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    known = update_manifest(root, names(root))
    child = os.fork()
    if child == 0:
        try:
            write_atomically(root / ".tamis" / "manifest.csv", die)
        finally:
            os._exit(1)  # it must never go on with the tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert read_manifest(root / ".tamis") == known


def test_the_manifest_may_lie_elsewhere_and_others_may_read_it(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere") / "new"
    written = update_manifest(root, names(root), folder)
    assert read_manifest(folder) == written
    assert not (root / ".tamis").exists()
    assert manifest_folder(root) == root / ".tamis"
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "manifest.csv").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_that_cannot_be_written_says_what_to_do_before_the_scan(root: Path) -> None:
    (root / ".tamis").write_text("a file where the folder should be")
    os.mkfifo(root / "endless.png")  # whoever opens it waits for a writer that never comes

    def give_up(*_: object) -> None:
        raise AssertionError("it began to read")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 2)
    with pytest.raises(OSError, match=r"cannot write into .*\.tamis.*--folder.*cache_dir"):
        update_manifest(root, [*names(root), "endless.png"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_reader_of_the_earlier_manifest_reads_it_to_the_end(root: Path) -> None:
    files = names(root)
    update_manifest(root, files[:6])
    file = root / ".tamis" / "manifest.csv"
    earlier = file.read_text()
    with file.open() as handle:
        update_manifest(root, files)
        assert handle.read() == earlier
    assert file.read_text() != earlier


def test_content_hashes_are_in_order_and_complete(root: Path) -> None:
    files = names(root)[::-1]
    manifest = update_manifest(root, [*files, "nowhere.png"])
    assert content_hashes(manifest, files) == [sha256((root / file).read_bytes()).hexdigest() for file in files]
    assert content_hashes(manifest, ["nowhere.png"]) == [""]
    with pytest.raises(KeyError, match="never.png stands in no manifest"):
        content_hashes(manifest, [*files, "never.png"])


def test_nobody_looking_no_progress_bar(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    update_manifest(root, names(root))
    assert capfd.readouterr() == ("", "")


def test_write_manifest_orders_by_name(tmp_path: Path) -> None:
    records = {name: FileRecord(name, 1, 2) for name in ("b.png", "a.png")}
    write_manifest(tmp_path, records)
    assert list(read_manifest(tmp_path)) == ["a.png", "b.png"]
    assert io.StringIO((tmp_path / "manifest.csv").read_text()).readline().endswith("error,version\n")
