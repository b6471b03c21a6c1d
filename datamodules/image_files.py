"""Image files as bytes: which reader takes which, how grey is made, and errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .image_sources import ImageSource
from .image_table import ImageTable

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
            return read_image(path, self.color, self.intensity_range)
        except Exception as error:  # each reader has its own exceptions, and none names the file
            raise RuntimeError(
                f"cannot read the image {path} ({self.table.where(index)}): {error}; "
                "audit: drop leaves unreadable images out"
            ) from error


def read_image(path: Path, color: Color = "grey", intensity_range: tuple[float, float] | None = None) -> Tensor:
    """An image file as ``[1, H, W]`` uint8, or ``[3, H, W]`` with ``color`` ``rgb``.

    8-bit PNG, JPEG, BMP and TIFF go through Pillow. Medical formats go through MONAI's readers (which import slowly and
    need their own packages, such as pydicom) and are mapped to bytes from ``intensity_range``, in the file's own units
    such as Hounsfield's, or between their 1st and 99th percentile, since they have no range of their own.
    """
    if path.suffix.lower() in RASTER_SUFFIXES:
        from PIL import Image

        with Image.open(path) as image:
            if image.mode in EIGHT_BIT_MODES:
                pixels = torch.from_numpy(np.array(image.convert("L" if color == "grey" else "RGB")))
                return pixels.unsqueeze(0) if color == "grey" else pixels.movedim(-1, 0).contiguous()
    from monai.transforms.intensity.array import ScaleIntensityRange, ScaleIntensityRangePercentiles
    from monai.transforms.io.array import LoadImage

    values = LoadImage(image_only=True, ensure_channel_first=True)(path)
    if values.dim() != 3:
        raise ValueError(f"expected one 2D image, got channels and axes {tuple(values.shape)}")
    if intensity_range is None:
        stretched = ScaleIntensityRangePercentiles(1, 99, 0, 255, clip=True)(values[:1])
    else:
        stretched = ScaleIntensityRange(*intensity_range, 0, 255, clip=True)(values[:1])
    # MONAI's spatial axes are (x, y), torchvision's (row, column).
    grey = torch.as_tensor(stretched).round().to(torch.uint8).transpose(1, 2).contiguous()
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
