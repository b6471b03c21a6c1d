"""Several sources of images as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from .image_sources import ImageSource, SquareCrop


class MergedImages(ImageSource):
    """The images of several sources, one source after the other; grey ones in three channels if any source has three.

    Args:
        sources: none of them empty; their images may differ in size.
    """

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = list(sources)
        self._ends = list(accumulate(len(source) for source in self.sources))
        self._channels = max(source.read(0).shape[0] for source in self.sources)

    def __len__(self) -> int:
        """Of all sources together."""
        return self._ends[-1]

    def read(self, index: int) -> Tensor:
        """``[C, H, W]`` uint8."""
        source, first = self._place(index)
        return self.sources[source].read(index - first).expand(self._channels, -1, -1)

    def read_batch(self, indices: Sequence[int], square: SquareCrop) -> Tensor:
        """``[B, C, S, S]`` uint8: each source reads its own at once."""
        places = [self._place(index) for index in indices]
        batch = torch.empty(len(indices), self._channels, square.size, square.size, dtype=torch.uint8)
        for source in {source for source, _ in places}:
            rows = [row for row, place in enumerate(places) if place[0] == source]
            own = [indices[row] - places[row][1] for row in rows]
            batch[rows] = self.sources[source].read_batch(own, square).expand(-1, self._channels, -1, -1)
        return batch

    def _place(self, index: int) -> tuple[int, int]:
        """The source of an image, and the number of the source's first image."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index}; the merged sources have {len(self)}")
        source = bisect_right(self._ends, index)
        return source, self._ends[source - 1] if source > 0 else 0
