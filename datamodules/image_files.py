"""Image files as bytes: which reader takes which, how grey is made, and errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .image_sources import ImageSource
from .image_table import ImageTable
from .volumes import VolumeReader

#: What Pillow decodes; everything else (DICOM, NIfTI, NumPy arrays ...) goes through MONAI's readers.
RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
#: Pillow's modes of 8 bits a channel. It would clip 16-bit pixels to white, so MONAI takes those too.
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
#: ``grey``: one channel, colours by their luminance (ITU-R 601). ``rgb``: three channels, grey ones repeated.
Color = Literal["grey", "rgb"]


class FileImages(ImageSource):
    """Images in files, decoded as they are asked for.

    Args:
        root: what the file names are relative to.
        table: the files.
        color: channels to make.
        intensity_range: of medical formats, see `read_image`.
    """

    def __init__(
        self, root: Path, table: ImageTable, color: Color = "grey", intensity_range: tuple[float, float] | None = None
    ) -> None:
        self.root, self.table = root, table
        self.color: Color = color
        self.intensity_range = intensity_range
        # A list of a million strings would be copied page by page into every loader process, which counts references
        # in them; one array has one count.
        self._files = PackedStrings(table.files)
        self._slices = None if table.slices is None else np.asarray(table.slices)
        self._volumes = VolumeReader()

    def __len__(self) -> int:
        """Number of images."""
        return len(self._files)

    def read(self, index: int) -> Tensor:
        """``[1, H, W]`` or ``[3, H, W]`` uint8.

        Raises:
            RuntimeError: naming the file and the line that asked for it.
        """
        path = self.root / self._files[index]
        try:
            slice_index = None if self._slices is None else int(self._slices[index])
            return read_image(path, self.color, self.intensity_range, slice_index, self._volumes)
        except Exception as error:  # each reader has its own exceptions, and none names the file
            raise RuntimeError(
                f"cannot read the image {path} ({self.table.where(index)}): {error}; "
                "audit: drop leaves unreadable images out"
            ) from error


def read_image(
    path: Path,
    color: Color = "grey",
    intensity_range: tuple[float, float] | None = None,
    slice_index: int | None = None,
    volumes: VolumeReader | None = None,
) -> Tensor:
    """An image file as ``[1, H, W]`` uint8, or ``[3, H, W]`` with ``color`` ``rgb``.

    8-bit PNG, JPEG, BMP and TIFF go through Pillow. Medical formats and 16-bit files go through MONAI's readers (which
    import slowly and need their own packages, such as pydicom); see `tamis.datamodules.volumes.read_slice`.

    Args:
        path: the file.
        color: channels to make.
        intensity_range: of medical formats, what becomes black and white.
        slice_index: of a volume, from 0; ``None`` or negative for a file of one image.
        volumes: keeps the volume for the next slice.
    """
    if path.suffix.lower() in RASTER_SUFFIXES and (slice_index is None or slice_index < 0):
        from PIL import Image

        with Image.open(path) as image:
            if image.mode in EIGHT_BIT_MODES:
                pixels = torch.from_numpy(np.array(image.convert("L" if color == "grey" else "RGB")))
                return pixels.unsqueeze(0) if color == "grey" else pixels.movedim(-1, 0).contiguous()
    grey = (volumes or VolumeReader()).read_slice(path, slice_index, intensity_range=intensity_range)
    return grey if color == "grey" else grey.expand(3, -1, -1).contiguous()


class PackedStrings:
    """Many strings in two arrays.

    Args:
        strings: any.
    """

    def __init__(self, strings: list[str]) -> None:
        encoded = [string.encode() for string in strings]
        self._ends = np.cumsum([len(piece) for piece in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        """How many."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """One of them; negative numbers count from the end."""
        position = range(len(self))[index]
        start = int(self._ends[position - 1]) if position else 0
        return self._bytes[start : int(self._ends[position])].tobytes().decode()
