from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tamis.datamodules import RadImageNet
from tamis.datamodules.image_files import PackedStrings, read_image
from tamis.datamodules.image_sources import LoadedImages

ROWS = [
    ("radiology_ai/CT/abd/normal/abd-normal000001.png", "abd-normal"),
    ("radiology_ai/MR/knee/acl_pathology/knee000002.png", "knee-acl_pathology"),
    ("radiology_ai/US/gb/usn000003.png", "usabd-gb"),
    ("radiology_ai/US/gb/usn000004.png", "usabd-gb"),
]


def write_csv(root: Path, split: str, rows: list[tuple[str, str]], header: str = "filename,label") -> None:
    lines = [header, *(",".join(row) for row in rows)]
    (root / f"RadiologyAI_{split}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, (filename, _) in enumerate(ROWS):
        (tmp_path / filename).parent.mkdir(parents=True, exist_ok=True)
        grey = Image.new("L", (30 + number, 40), 60 * number)  # no two of one size
        grey.convert("RGB" if number % 2 else "L").save(tmp_path / filename)
    for split in ("train", "val", "test"):
        write_csv(tmp_path, split, ROWS)
    return tmp_path


def test_batches_are_normalised_with_the_published_statistics(root: Path) -> None:
    data = RadImageNet(str(root), batch_size=4, image_size=24)
    data.setup("test")
    raw = next(iter(data.test_dataloader()))
    batch = data.on_after_batch_transfer(raw, 0)
    assert raw.images.dtype == torch.uint8
    assert batch.images.shape == (4, 3, 24, 24)
    for number in range(4):
        grey = (60 * number / 255 - 0.3162) / 0.3213
        torch.testing.assert_close(batch.images[number], torch.full((3, 24, 24), grey), atol=1e-5, rtol=0)


def test_classes_are_the_pinned_ones_or_those_found(root: Path) -> None:
    found = RadImageNet(str(root), batch_size=4, image_size=24, class_list="found")
    found.setup("test")
    assert found.class_names == ["CT__abd__normal", "MR__knee__acl_pathology", "US__gb"]
    assert next(iter(found.test_dataloader())).labels.tolist() == [0, 1, 2, 2]
    pinned = RadImageNet(str(root), batch_size=4, image_size=24)
    pinned.setup("test")
    assert pinned.num_classes == 165
    labels = next(iter(pinned.test_dataloader())).labels.tolist()
    assert [pinned.class_names[label] for label in labels] == [found.class_names[label] for label in (0, 1, 2, 2)]


def test_classes_can_be_left_out_before_pretraining_and_alone_after(root: Path) -> None:
    unseen = ["MR__knee__*"]
    data = RadImageNet(str(root), batch_size=2, image_size=24, class_list="found", without_classes=unseen)
    data.setup("fit")
    assert data.class_names == ["CT__abd__normal", "US__gb"]
    assert data.split("train").labels.tolist() == [0, 1, 1]
    assert data.split("train").images == 3
    for number, row in enumerate((0, 2, 3)):  # labels stay with their images
        assert torch.equal(data.split("train").source.read(number), read_image(root / ROWS[row][0]))
    assert data.class_counts().tolist() == [1, 2]
    assert data.class_groups["anatomy"] == ["abd", "usabd"]
    alone = RadImageNet(str(root), image_size=24, only_classes=["MR__knee__*"])
    assert alone.num_classes == 18
    alone.setup("fit")
    assert [alone.class_names[label] for label in alone.split("val").labels] == ["MR__knee__acl_pathology"]
    gone = RadImageNet(str(root), image_size=24, only_classes=["MR__hip__*"])
    with pytest.raises(ValueError, match="the train split has no image of the classes"):
        gone.setup("fit")


def test_evaluation_cuts_an_eighth_off_unless_told_otherwise(root: Path) -> None:
    framed = Image.new("L", (64, 64), 255)
    framed.paste(0, (4, 4, 60, 60))
    framed.save(root / ROWS[0][0])

    def brightest(eval_resize: int | None) -> int:
        data = RadImageNet(str(root), batch_size=1, image_size=56, eval_resize=eval_resize)
        data.setup("test")
        return int(next(iter(data.test_dataloader())).images.max())

    assert brightest(None) == 0
    assert brightest(56) > 200


def test_one_csv_is_split_as_the_options_say(tmp_path: Path) -> None:
    lines = [f"{number}.png,{'ab'[number % 2]},p{number},h{number % 8 // 2}" for number in range(40)]
    (tmp_path / "all.csv").write_text("filename,label,patient,hospital\n" + "\n".join(lines) + "\n")
    shares = (0.5, 0.25, 0.25)

    def files(seed: int) -> dict[str, list[str]]:
        data = RadImageNet(str(tmp_path), group_column="hospital", split_shares=shares, split_seed=seed)
        return {split: table.files for split, table in data.layout.tables.items()}

    assert {split: len(names) for split, names in files(0).items()} == {"train": 20, "val": 10, "test": 10}
    hospitals = [{int(name.split(".")[0]) % 8 // 2 for name in names} for names in files(0).values()]
    assert sum(map(len, hospitals)) == 4  # none is in two splits
    assert len({str(files(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("color", ["grey", "rgb"])
def test_colours_are_kept_or_made_grey(root: Path, color: str) -> None:
    Image.new("RGB", (40, 40), (255, 0, 0)).save(root / ROWS[0][0])
    data = RadImageNet(str(root), batch_size=4, image_size=24, mean=0.0, std=1.0, color=color)  # type: ignore[arg-type]
    data.setup("test")
    raw = next(iter(data.test_dataloader()))
    red = data.on_after_batch_transfer(raw, 0).images[0, :, 0, 0]
    expected = [76 / 255] * 3 if color == "grey" else [1.0, 0.0, 0.0]  # .299 of red's 255
    torch.testing.assert_close(red, torch.tensor(expected))


def test_each_stage_reads_only_its_splits(root: Path) -> None:
    (root / "RadiologyAI_test.csv").unlink()
    data = RadImageNet(str(root))
    data.setup("fit")
    assert data.split("train").images == 4


@pytest.mark.parametrize("cache", [True, False])
def test_training_images_are_shuffled_crops(root: Path, cache: bool) -> None:
    data = RadImageNet(str(root), batch_size=2, image_size=16, cache=cache, class_list="found")
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [batch.images.shape for batch in batches] == [(2, 1, 16, 16)] * 2
    assert sorted(torch.cat([batch.labels for batch in batches]).tolist()) == [0, 1, 2, 2]
    assert isinstance(batches[0], LoadedImages)


def test_cached_images_need_no_file_any_more(root: Path) -> None:
    data = RadImageNet(str(root), cache=True)
    data.setup("test")
    (root / ROWS[0][0]).unlink()
    assert next(iter(data.test_dataloader())).images[0].shape == (1, 224, 224)


def test_medical_formats_go_through_monai(tmp_path: Path) -> None:
    pixels = np.linspace(-1000, 2000, 12 * 10, dtype=np.float32).reshape(12, 10)  # Hounsfield-like, rows x columns
    np.save(tmp_path / "slice.npy", pixels.T)  # MONAI's axes are x, y
    image = read_image(tmp_path / "slice.npy")
    assert image.shape == (1, 12, 10)
    assert (int(image.min()), int(image.max())) == (0, 255)
    assert image[0, 0, 0] < image[0, 0, -1] < image[0, -1, 0]


def test_sixteen_bits_are_stretched_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 60000, 400, dtype=np.uint16).reshape(20, 20)).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png")
    assert image.shape == (1, 20, 20)
    assert 120 < image.float().mean() < 136
    assert image[0, 0, 0] < image[0, 0, -1] < image[0, -1, 0]


def test_jpeg_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (100, 100, 100)).save(tmp_path / "image.JPG")
    assert read_image(tmp_path / "image.JPG").float().mean() == pytest.approx(100, abs=1)


def test_packed_names_are_those_of_the_list() -> None:
    names = ["", "a.png", "Überblick/ß.png", "", "c"]
    packed = PackedStrings(names)
    assert [packed[number] for number in range(-5, 5)] == names + names
    for outside in (5, -6):
        with pytest.raises(IndexError):
            packed[outside]


# Bad input


def test_missing_root_and_missing_csv(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        RadImageNet(str(root / "nowhere")).setup("fit")
    (root / "RadiologyAI_val.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"RadiologyAI_val.csv does not exist"):
        RadImageNet(str(root)).setup("fit")


def test_csv_without_the_columns_names_what_it_has(root: Path) -> None:
    write_csv(root, "train", ROWS, header="path,class")
    with pytest.raises(ValueError, match=r"RadiologyAI_train.csv must have .*filename and label, found: path, class"):
        RadImageNet(str(root)).setup("fit")


def test_empty_split(root: Path) -> None:
    write_csv(root, "val", [])
    with pytest.raises(ValueError, match="the val split is empty"):
        RadImageNet(str(root)).setup("fit")


def test_label_that_training_lacks(root: Path) -> None:
    write_csv(root, "val", [*ROWS, (ROWS[0][0], "abd-unheard_of")])
    with pytest.raises(ValueError, match=r"RadiologyAI_val.csv has labels that .* lacks: abd-unheard_of"):
        RadImageNet(str(root), class_list="found").setup("fit")


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_unreadable_image_is_named_with_its_line(root: Path, content: bytes) -> None:
    (root / ROWS[2][0]).write_bytes(content)
    data = RadImageNet(str(root))
    data.setup("test")
    with pytest.raises(RuntimeError, match=r"usn000003.png \(RadiologyAI_test.csv, line 4\)"):
        list(data.test_dataloader())


def test_missing_image_is_named(root: Path) -> None:
    (root / ROWS[1][0]).unlink()
    with pytest.raises(RuntimeError, match=r"knee000002\.png"):
        RadImageNet(str(root), cache=True).setup("test")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"crop_scale": (0.5, 1.5)}, {"flip": -1.0}, {"std": 0.0}])
def test_impossible_options(root: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        RadImageNet(str(root), **options)  # type: ignore[arg-type]
