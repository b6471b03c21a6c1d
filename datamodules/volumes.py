"""Medical image files as bytes: a file of one image, or one slice of a volume, through MONAI's readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
#: What Pillow opens; those come here that are not grey or RGB of 8 bits: 16 bits, floats, printing colours.
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
#: NumPy's own.
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
#: What a DICOM file has behind 128 bytes of anything; many have no suffix, or a number.
DICOM_MARK = b"DICM"
#: ITU-R 601: how bright red, green and blue are.
LUMINANCE = (0.299, 0.587, 0.114)
#: Percentiles of an image that become black and white.
PERCENTILES = (1, 99)


class FileValues(NamedTuple):
    """What a file holds.

    Args:
        values: ``[X, Y]`` or ``[X, Y, slices]`` float32 in the file's own units.
        white_first: whether the lowest value is white, as DICOM's MONOCHROME1 says.
    """

    values: NDArray[np.float32]
    white_first: bool = False


class VolumeReader:
    """Reads slices and keeps the last volume, so that the slices of one after the other decode it once.

    Threads may share it; a copy for another process starts with nothing.
    """

    def __init__(self) -> None:
        self._last: tuple[Path, FileValues] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the volume, which would be sent to every loader process."""
        return {"_last": None}

    def read_slice(
        self,
        path: Path,
        index: int | None = None,
        axis: int = -1,
        intensity_range: tuple[float, float] | None = None,
    ) -> Tensor:
        """See the function `read_slice`."""
        last = self._last  # once: another thread may put its volume there at any time
        if last is None or last[0] != path:
            last = self._last = (path, read_values(path))
        return _slice_to_bytes(last[1], index, axis, intensity_range)


def read_slice(
    path: Path, index: int | None = None, axis: int = -1, intensity_range: tuple[float, float] | None = None
) -> Tensor:
    """An image, or one slice of a volume, as ``[1, H, W]`` uint8.

    Args:
        path: DICOM (with a suffix or without, one frame or several), NIfTI, or what else MONAI reads.
        index: of the slice, from 0; ``None`` or negative for a file of one image.
        axis: along which to count slices. The axes are those of the file, ``(x, y, slice)``; for DICOM the last one
            counts frames. Of the two that are left, the first runs to the right and the second down. NIfTI is not
            turned: where y runs to the front, as in RAS, the front is at the bottom.
        intensity_range: what becomes 0 and 255, in the file's own units, such as -160 to 240 Hounsfield units for soft
            tissue; beyond it, it is clipped. By default the image's 1st and 99th percentile.

    Raises:
        ValueError: if a volume is asked for no slice or one that it has not, or the file is neither image nor volume.
        ImportError: naming the package that reads such files.
    """
    return _slice_to_bytes(read_values(path), index, axis, intensity_range)


def read_values(path: Path) -> FileValues:
    """The values of a file; colours as their luminance.

    Raises:
        ValueError: if the file has more axes than three, or several channels a voxel.
        ImportError: naming the package that reads such files.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        found = FileValues(_read_nifti(path))
    else:
        found = _read_dicom(path) if _is_dicom(path) else FileValues(_read_other(path))
    values = found.values
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3):
        raise ValueError(
            f"expected an image or a volume of slices, got axes of {values.shape}; several times or contrasts in one "
            "file are not read"
        )
    return found._replace(values=values)


def take_slice(values: NDArray[np.float32], index: int | None, axis: int = -1) -> NDArray[np.float32]:
    """A slice of ``[X, Y]`` or ``[X, Y, slices]`` as ``[rows, columns]``; see `read_slice`."""
    asked = index is not None and index >= 0
    if values.ndim == 2:
        if asked and index != 0:
            raise ValueError(f"slice {index} was asked for, but the file is one image; leave the slice empty")
        return values.T
    if not asked or index is None:
        raise ValueError(
            f"the file is a volume of {values.shape[axis]} slices; name one a row, from 0, in the column slice of a CSV"
        )
    if index >= values.shape[axis]:
        raise ValueError(f"slice {index} was asked for, but the volume has {values.shape[axis]}, counted from 0")
    image: NDArray[np.float32] = np.take(values, index, axis)
    return image.T


def to_bytes(values: NDArray[np.float32], intensity_range: tuple[float, float] | None = None) -> Tensor:
    """Values as ``[1, H, W]`` uint8, the range's ends as 0 and 255; an image of one value is black.

    Values that are not finite, such as the padding of some scanners, are taken for the lowest.

    Args:
        values: ``[H, W]``.
        intensity_range: see `read_slice`.

    Raises:
        ValueError: if no value is finite, or the range is none.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no value of the image is finite")
    if intensity_range is None:
        low, high = np.percentile(values[finite], PERCENTILES)
    else:
        low, high = check_intensity_range(intensity_range)
    if high <= low:
        return torch.zeros(1, *values.shape, dtype=torch.uint8)
    from monai.transforms.intensity.array import ScaleIntensityRange

    filled = np.where(finite, values, values[finite].min())
    scaled = ScaleIntensityRange(float(low), float(high), 0, 255, clip=True)(torch.from_numpy(filled))
    return torch.as_tensor(scaled).round().to(torch.uint8).unsqueeze(0).contiguous()


def check_intensity_range(intensity_range: tuple[float, float]) -> tuple[float, float]:
    """The range, if it is one.

    Raises:
        ValueError: if the first is not below the second.
    """
    low, high = intensity_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"intensity_range must be two numbers, the lower first, got {intensity_range}")
    return low, high


def _slice_to_bytes(
    found: FileValues, index: int | None, axis: int, intensity_range: tuple[float, float] | None
) -> Tensor:
    image = to_bytes(take_slice(found.values, index, axis), intensity_range)
    return 255 - image if found.white_first else image


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    with path.open("rb") as handle:
        return handle.read(132)[128:] == DICOM_MARK


def _read_dicom(path: Path) -> FileValues:
    """After the rescaling that the file asks for, such as to Hounsfield units."""
    from monai.data.image_reader import PydicomReader

    try:
        # Without the swap, which takes the first two axes for an image's also where the first one counts frames.
        reader = PydicomReader(swap_ij=False)
    except ImportError as error:
        raise _missing("pydicom") from error
    dataset: Any = reader.read(path)
    # MONAI wants to know where the patient lies, warns if it is not told and stops at odd numbers; pixels need none.
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    dataset.PixelSpacing = [1, 1]
    values = np.asarray(reader.get_data(dataset)[0], dtype=np.float32)
    if int(dataset.get("SamplesPerPixel", 1)) == 3:
        values = values @ np.asarray(LUMINANCE, dtype=np.float32)
    # [rows, columns] and [frames, rows, columns], both back to front
    return FileValues(values.T, dataset.get("PhotometricInterpretation") == "MONOCHROME1")


def _read_nifti(path: Path) -> NDArray[np.float32]:
    """``[X, Y]``, ``[X, Y, slices]`` or more axes, as the file has them."""
    from monai.data.image_reader import NibabelReader

    try:
        reader = NibabelReader()
    except ImportError as error:
        raise _missing("nibabel") from error
    return np.asarray(reader.get_data(reader.read(path))[0], dtype=np.float32)


def _read_other(path: Path) -> NDArray[np.float32]:
    """``[X, Y]`` or ``[X, Y, slices]``; of a picture with several channels the first."""
    from monai.data.image_reader import PILReader
    from monai.transforms.io.array import LoadImage

    suffix = path.suffix.lower()
    if suffix in ARRAY_SUFFIXES:
        return _read_array(path)
    if suffix in PICTURE_SUFFIXES:
        pictures = PILReader()
        values = np.asarray(pictures.get_data(pictures.read(path))[0], dtype=np.float32)
        return values if values.ndim == 2 else values[..., 0]
    loaded = LoadImage(image_only=True, ensure_channel_first=True)(path)  # tries whatever is installed
    return np.asarray(torch.as_tensor(loaded)[0], dtype=np.float32)


def _read_array(path: Path) -> NDArray[np.float32]:
    # Not by MONAI, whose older versions unpickle what is no array.
    loaded: Any = _without_objects(lambda: np.load(path, allow_pickle=False))
    if isinstance(loaded, np.ndarray):
        return np.asarray(loaded, dtype=np.float32)
    with loaded:
        if len(loaded.files) != 1:
            raise ValueError(f"expected one array, got {', '.join(loaded.files) or 'none'}; save one image a file")
        return np.asarray(_without_objects(lambda: loaded[loaded.files[0]]), dtype=np.float32)


def _without_objects(read: Callable[[], Any]) -> Any:  # noqa: ANN401 - an array, or an archive of some
    """What NumPy reads; its advice for Python objects, to unpickle them, is not passed on."""
    try:
        return read()
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(
            "it holds Python objects, which could run code, or is no array; nothing of it was run. Save an array of "
            "numbers by numpy.save"
        ) from error


def _missing(package: str) -> ImportError:
    return ImportError(f"{package} reads such files and is not installed: pip install {package}, or tamis[medical]")
