"""Slices of NIfTI and DICOM files, written here through nibabel and pydicom."""

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tamis.datamodules import RadImageNet
from tamis.datamodules.volumes import VolumeReader, read_slice, take_slice, to_bytes

#: Hounsfield units as rows and columns: no two corners alike, so that a turn or a flip shows.
PICTURE = np.array([[-160, 40, 40, 240], [40, 40, 40, 40], [-60, 40, 40, 40]], dtype=np.int16)
#: PICTURE between -160 and 240: (value + 160) / 400 * 255, so 40 is 127.5, which rounds to even, and -60 is 63.75.
BYTES = [[0, 128, 128, 255], [128, 128, 128, 128], [64, 128, 128, 128]]
WINDOW = (-160.0, 240.0)


def write_nifti(path: Path, values: NDArray[np.int16]) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def write_dicom(path: Path, frames: NDArray[np.int16], photometric: str = "MONOCHROME2", slope: float = 1) -> Path:
    """Stored values are frames / slope + 1024 / slope, with the rescaling that undoes it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["1"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = frames.shape[1:3] if photometric == "RGB" else frames.shape[-2:]
    if frames.ndim == 3 and photometric != "RGB":
        data.NumberOfFrames = len(frames)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = slope, -1024
    data.PixelData = ((frames.astype(np.int32) + 1024) / slope).astype(np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def write_colour_dicom(path: Path, pixels: NDArray[np.uint8]) -> Path:
    data = pydicom.dcmread(write_dicom(path, PICTURE))
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    del data.RescaleSlope, data.RescaleIntercept
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Five slices along z, the picture in slice 3, the others each of one value."""
    values = np.zeros((4, 3, 5), dtype=np.int16)
    values += np.arange(5, dtype=np.int16) * 10
    values[:, :, 3] = PICTURE.T  # NIfTI's first axis is x
    return write_nifti(tmp_path / "volume.nii.gz", values)


def test_a_slice_of_a_nifti_volume_stands_upright(volume: Path) -> None:
    assert read_slice(volume, 3, intensity_range=WINDOW).tolist() == [BYTES]
    # Slice 4 is 40 everywhere: (40 + 160) / 400 * 255 = 127.5.
    assert read_slice(volume, 4, intensity_range=WINDOW).unique().tolist() == [128]


def test_slices_along_another_axis(volume: Path) -> None:
    along_x = read_slice(volume, 0, axis=0, intensity_range=WINDOW)
    assert along_x.shape == (1, 5, 3)  # z down, y to the right
    assert along_x[0, 3].tolist() == [row[0] for row in BYTES]
    along_y = read_slice(volume, 0, axis=1, intensity_range=WINDOW)
    assert along_y[0, 3].tolist() == BYTES[0]


@pytest.mark.parametrize("name", ["image.dcm", "IM0001", "1.2.840.113"])
def test_a_dicom_of_one_frame_needs_no_index(tmp_path: Path, name: str) -> None:
    path = write_dicom(tmp_path / name, PICTURE, slope=2)
    assert read_slice(path, intensity_range=WINDOW).tolist() == [BYTES]
    assert read_slice(path, -1, intensity_range=WINDOW).tolist() == [BYTES]
    assert read_slice(path, 0, intensity_range=WINDOW).tolist() == [BYTES]


@pytest.mark.parametrize("name", ["frames.dcm", "IM0001"])
def test_a_frame_of_a_dicom_stands_upright(tmp_path: Path, name: str) -> None:
    frames = np.stack([np.full_like(PICTURE, 40), PICTURE])
    path = write_dicom(tmp_path / name, frames)
    assert read_slice(path, 1, intensity_range=WINDOW).tolist() == [BYTES]
    assert read_slice(path, 0, intensity_range=WINDOW).unique().tolist() == [128]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["absent", "empty"])
def test_where_the_patient_lies_does_not_matter(tmp_path: Path, value: str) -> None:
    path = write_dicom(tmp_path / "image.dcm", PICTURE)
    if value == "empty":
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = data.ImagePositionPatient = data.PixelSpacing = None
        data.save_as(path)
    assert read_slice(path, intensity_range=WINDOW).tolist() == [BYTES]


def test_white_on_black_is_turned_round(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "xray.dcm", PICTURE, photometric="MONOCHROME1")
    assert read_slice(path, intensity_range=WINDOW).tolist() == [[[255 - value for value in row] for row in BYTES]]


def test_colours_become_their_luminance(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [0, 0, 0]]], np.uint8)
    path = write_colour_dicom(tmp_path / "doppler.dcm", pixels)
    # 0.299, 0.587 and 0.114 of 255 are 76.2, 149.7 and 29.1.
    assert read_slice(path, intensity_range=(0, 255)).tolist() == [[[76, 150, 29], [255, 0, 0]]]


def test_nifti_of_one_slice_is_an_image(tmp_path: Path) -> None:
    for name, values in (("flat", PICTURE.T), ("thin", PICTURE.T[:, :, None]), ("timed", PICTURE.T[:, :, None, None])):
        path = write_nifti(tmp_path / f"{name}.nii", np.ascontiguousarray(values))
        assert read_slice(path, intensity_range=WINDOW).tolist() == [BYTES]


def test_percentiles_are_the_default(tmp_path: Path) -> None:
    ramp = np.arange(101, dtype=np.int16).reshape(1, 101) * 10  # percentiles 1 and 99 are 10 and 990
    image = read_slice(write_dicom(tmp_path / "ramp.dcm", ramp))
    # (500 - 10) / 980 * 255 = 127.5
    assert [int(image[0, 0, column]) for column in (0, 1, 50, 99, 100)] == [0, 0, 128, 255, 255]


@pytest.mark.filterwarnings("error")  # MONAI's, of a division by zero
def test_an_image_of_one_value_is_black() -> None:
    assert to_bytes(np.full((2, 3), 7, np.float32)).tolist() == [[[0] * 3] * 2]


def test_what_is_not_finite_is_the_lowest() -> None:
    values = np.array([[np.nan, 0, 100], [np.inf, 50, 100]], np.float32)
    assert to_bytes(values, (0, 100)).tolist() == [[[0, 0, 255], [0, 128, 255]]]
    # Of 0, 50, 100 and 100 the 1st percentile is 0.03 * 50 = 1.5, the 99th 100: (50 - 1.5) / 98.5 * 255 = 125.6.
    assert to_bytes(values).tolist() == [[[0, 0, 255], [0, 126, 255]]]
    assert to_bytes(np.array([[np.nan, 50, 100]], np.float32), (0, 100)).tolist() == [[[128, 128, 255]]]
    with pytest.raises(ValueError, match="no value of the image is finite"):
        to_bytes(np.full((2, 2), np.nan, np.float32))


def test_the_last_volume_is_kept_but_not_sent_to_processes(volume: Path) -> None:
    reader = VolumeReader()
    first = reader.read_slice(volume, 3, intensity_range=WINDOW)
    volume.unlink()
    assert torch.equal(reader.read_slice(volume, 3, intensity_range=WINDOW), first)
    assert reader.read_slice(volume, 4, intensity_range=WINDOW).unique().tolist() == [128]
    for other in (pickle.loads(pickle.dumps(reader)), copy.copy(reader)):
        with pytest.raises(FileNotFoundError):
            other.read_slice(volume, 3)


def test_another_volume_takes_the_place_of_the_last(volume: Path, tmp_path: Path) -> None:
    reader = VolumeReader()
    reader.read_slice(volume, 3)
    other = write_nifti(tmp_path / "other.nii", np.full((4, 3, 2), 240, np.int16))
    assert reader.read_slice(other, 1, intensity_range=WINDOW).unique().tolist() == [255]


def test_threads_that_share_a_reader_get_their_own_volumes(tmp_path: Path) -> None:
    paths = [write_nifti(tmp_path / f"{number}.nii", np.full((8, 8, 2), number, np.int16)) for number in range(4)]
    reader = VolumeReader()

    def read(turn: int) -> int:
        return int(reader.read_slice(paths[turn % 4], turn % 2, intensity_range=(0, 255)).max())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads overtake each other anywhere
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(400))) == [turn % 4 for turn in range(400)]
    finally:
        sys.setswitchinterval(interval)


def test_a_csv_of_slices_is_a_set_of_images(volume: Path, tmp_path: Path) -> None:
    """Slices of a volume, frames and single images in one table; without patients, a volume stays in one split."""
    write_dicom(tmp_path / "one.dcm", PICTURE)
    write_dicom(tmp_path / "frames.dcm", np.stack([PICTURE] * 4))
    rows = ["volume.nii.gz,3,a", "volume.nii.gz,4,b", "volume.nii.gz,3,b"]
    rows += ["one.dcm,,a", *(f"frames.dcm,{index},b" for index in range(4))]
    (tmp_path / "slices.csv").write_text("\n".join(["filename,slice,label", *rows]) + "\n")
    data = RadImageNet(str(tmp_path), image_size=3, intensity_range=WINDOW, split_shares=(0.5, 0.5, 0), split_seed=1)
    with pytest.warns(UserWarning, match="nothing says which images are one patient's"):
        data.setup("fit")
    of_split = [set(data.tables[split].files) for split in ("train", "val")]
    assert sum(map(len, of_split)) == 3
    train = data.tables["train"]
    assert train.slices is not None
    for row in range(train.rows):
        expected = torch.tensor(BYTES) if train.slices[row] != 4 else torch.full((3, 4), 128)
        assert torch.equal(data.split("train").source.read(row)[0], expected.to(torch.uint8))


# Bad input


def test_a_volume_without_an_index_says_what_to_do(volume: Path) -> None:
    for index in (None, -1):
        with pytest.raises(
            ValueError, match=r"volume of 5 slices; name one a row, from 0, in the column slice of a CSV"
        ):
            read_slice(volume, index)


def test_a_slice_that_is_not_there(volume: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slice 5 was asked for, but the volume has 5"):
        read_slice(volume, 5)
    with pytest.raises(ValueError, match="slice 3 was asked for, but the volume has 3"):
        read_slice(volume, 3, axis=1)
    with pytest.raises(ValueError, match="slice 1 was asked for, but the file is one image"):
        take_slice(PICTURE.astype(np.float32), 1)


def test_volumes_of_several_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="several times or contrasts in one file are not read"):
        read_slice(write_nifti(tmp_path / "two.nii", np.zeros((4, 3, 5, 2), np.int16)), 0)


@pytest.mark.parametrize("window", [(240.0, -160.0), (1.0, 1.0), (float("nan"), 1.0)])
def test_a_range_that_is_none(window: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="intensity_range must be two numbers, the lower first"):
        to_bytes(PICTURE.astype(np.float32), window)


@pytest.mark.filterwarnings("error")
def test_arrays_are_read_as_monai_has_them(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", PICTURE.T)  # x, y
    assert read_slice(tmp_path / "array.npy", intensity_range=WINDOW).tolist() == [BYTES]
    np.savez(tmp_path / "array.npz", PICTURE.T)
    assert read_slice(tmp_path / "array.npz", intensity_range=WINDOW).tolist() == [BYTES]
    np.savez(tmp_path / "two.npz", first=PICTURE, second=PICTURE)
    with pytest.raises(ValueError, match="expected one array, got first, second"):
        read_slice(tmp_path / "two.npz")


@pytest.mark.parametrize("name", ["deep.png", "deep.TIF"])
def test_sixteen_bit_pictures_keep_their_range(tmp_path: Path, name: str) -> None:
    deep = (PICTURE.astype(np.int32) + 1024).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / name)
    low, high = WINDOW
    assert read_slice(tmp_path / name, intensity_range=(low + 1024, high + 1024)).tolist() == [BYTES]


def test_of_printing_colours_the_first_is_read(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 3), (200, 0, 0, 0)).save(tmp_path / "print.tif")
    image = read_slice(tmp_path / "print.tif", intensity_range=(0, 255))
    assert image.tolist() == [[[200] * 4] * 3]


def test_a_missing_package_is_named(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_dicom(tmp_path / "image.dcm", PICTURE)
    for package, path in (("nibabel", volume), ("pydicom", image)):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
        with pytest.raises(ImportError, match=rf"{package} reads such files and is not installed: pip install"):
            read_slice(path, 0)
