"""Drawing grey phantoms that look a little like CT, MR and ultrasound; all images of a class at once.

Every image is drawn in coordinates from -1 to 1, x to the right and y down. The modality shows at a glance (air and
bone, bias field, fan and speckle), the pathology only in a small or faint lesion: the shortcut that the noise mask's
paper sets out from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


class Canvas:
    """Random shapes and textures for ``count`` images of ``size`` x ``size`` pixels, as ``[count, size, size]``.

    Args:
        count: images.
        size: pixels a side.
        generator: of everything random.
    """

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, size, generator
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        self.x, self.y = axis.view(1, 1, -1), axis.view(1, -1, 1)

    def uniform(self, low: float, high: float) -> Tensor:
        """A number an image, ``[count, 1, 1]``."""
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """1 or 0 an image, ``[count, 1, 1]``."""
        return (self.uniform(0, 1) < probability).float()

    def white_noise(self) -> Tensor:
        """Independent normal pixels."""
        return torch.randn(self.count, self.size, self.size, generator=self.generator)

    def texture(self, cells: int) -> Tensor:
        """Smooth noise with ``cells`` blobs a side, mean 0, standard deviation about 1."""
        coarse = torch.randn(self.count, 1, cells, cells, generator=self.generator)
        smooth = F.interpolate(coarse, size=self.size, mode="bicubic", align_corners=False).squeeze(1)
        return smooth / smooth.std()

    def ellipse(
        self,
        x: Tensor | float,
        y: Tensor | float,
        radius_x: Tensor | float,
        radius_y: Tensor | float,
        angle: Tensor | float = 0.0,
        softness: float = 0.12,
    ) -> Tensor:
        """1 inside, 0 outside, with a soft edge (``softness`` as a share of the radius)."""
        angle = torch.as_tensor(angle)
        dx, dy = self.x - x, self.y - y
        along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
        distance = ((along / radius_x) ** 2 + (across / radius_y) ** 2).sqrt()
        return torch.sigmoid((1 - distance) / softness * 4)

    def lesion(self, x: Tensor | float, y: Tensor | float, low: float, high: float) -> Tensor:
        """A small round-ish spot with a radius between ``low`` and ``high``."""
        radius = self.uniform(low, high)
        return self.ellipse(x, y, radius, radius * self.uniform(0.7, 1.3), self.uniform(0, math.pi), softness=0.5)


Drawing = Callable[[Canvas], Tensor]


def _over(image: Tensor, shape: Tensor, value: Tensor | float) -> Tensor:
    """Paint ``value`` where ``shape`` is 1."""
    return image * (1 - shape) + shape * value


def ct_abdomen(canvas: Canvas, pathology: str) -> Tensor:
    """Axial slice: body, fat ring, spine, liver, two kidneys, gas."""
    sway = canvas.uniform(-0.08, 0.08)
    width, height = canvas.uniform(0.78, 0.92), canvas.uniform(0.6, 0.74)
    body = canvas.ellipse(sway, 0, width, height, softness=0.05)
    image = _over(torch.zeros(1), body, 0.32)
    image = _over(image, canvas.ellipse(sway, 0, width - 0.1, height - 0.1, softness=0.06), 0.46)
    liver_x, liver_y = sway - canvas.uniform(0.28, 0.4), canvas.uniform(-0.2, -0.05)
    liver = canvas.ellipse(liver_x, liver_y, canvas.uniform(0.28, 0.36), canvas.uniform(0.26, 0.34), 0.4)
    image = _over(image, liver, canvas.uniform(0.54, 0.6))
    kidney_x, kidney_y = sway + canvas.uniform(0.32, 0.42), canvas.uniform(0.1, 0.24)
    for side in (kidney_x, 2 * sway - kidney_x):
        image = _over(image, canvas.ellipse(side, kidney_y, 0.12, 0.17, softness=0.2), canvas.uniform(0.6, 0.68))
    image = _over(image, canvas.ellipse(sway, 0.36, 0.12, 0.13), 0.95)
    image = _over(image, canvas.ellipse(sway + canvas.uniform(0, 0.3), -0.3, 0.12, 0.08), canvas.uniform(0.05, 0.5))
    depth = canvas.uniform(0.05, 0.2)  # contrast of the lesion: the smallest are lost in the noise
    if pathology == "liver_lesion":
        spot = canvas.lesion(liver_x + canvas.uniform(-0.15, 0.15), liver_y + canvas.uniform(-0.13, 0.13), 0.06, 0.14)
        image = image - spot * depth
    elif pathology == "renal_lesion":
        spot = canvas.lesion(kidney_x + canvas.uniform(-0.06, 0.1), kidney_y + canvas.uniform(-0.1, 0.1), 0.06, 0.13)
        image = image - spot * (depth + 0.04)
    elif pathology == "ascites":
        rim = canvas.ellipse(sway, 0, width - 0.12, height - 0.12) - canvas.ellipse(
            sway, canvas.uniform(-0.05, 0), width - canvas.uniform(0.16, 0.24), height - canvas.uniform(0.16, 0.24)
        )
        image = image - rim.clamp(min=0) * depth
    return image + 0.035 * canvas.texture(10) * body + 0.04 * canvas.white_noise()


def ct_lung(canvas: Canvas, pathology: str) -> Tensor:
    """Axial slice: chest wall, two dark lungs with vessels, heart, spine."""
    sway = canvas.uniform(-0.06, 0.06)
    body = canvas.ellipse(sway, 0, canvas.uniform(0.84, 0.94), canvas.uniform(0.62, 0.72), softness=0.05)
    image = _over(torch.zeros(1), body, 0.5)
    lung_x, lung_y = canvas.uniform(0.38, 0.44), canvas.uniform(-0.08, 0.02)
    radius_x, radius_y = canvas.uniform(0.27, 0.33), canvas.uniform(0.42, 0.5)
    lungs = torch.zeros(1)
    for side in (-1, 1):
        lungs = lungs + canvas.ellipse(sway + side * lung_x, lung_y, radius_x, radius_y, 0.12 * side, softness=0.08)
    image = _over(image, lungs, canvas.uniform(0.1, 0.16))
    vessels = (canvas.texture(18) - 1.1).clamp(min=0)
    image = image + lungs * vessels * 0.22
    image = _over(image, canvas.ellipse(sway + 0.12, 0.0, 0.2, 0.24), 0.56)
    image = _over(image, canvas.ellipse(sway, 0.46, 0.11, 0.12), 0.92)
    flank = canvas.chance(0.5) * 2 - 1
    spot_x, spot_y = sway + flank * (lung_x + canvas.uniform(-0.1, 0.1)), lung_y + canvas.uniform(-0.28, 0.28)
    if pathology == "Nodule":
        image = image + lungs * canvas.lesion(spot_x, spot_y, 0.05, 0.1) * canvas.uniform(0.15, 0.45)
    elif pathology == "Airspace_opacity":
        patch = canvas.ellipse(spot_x, spot_y, canvas.uniform(0.14, 0.26), canvas.uniform(0.14, 0.26), softness=0.8)
        image = image + lungs * patch * canvas.uniform(0.06, 0.26) * (1 + 0.4 * canvas.texture(14))
    return image + 0.04 * canvas.white_noise()


def mr_brain(canvas: Canvas, pathology: str) -> Tensor:
    """Axial slice: skull, folded cortex, white matter, ventricles, under a bias field."""
    tilt = canvas.uniform(-0.15, 0.15)
    width, height = canvas.uniform(0.62, 0.7), canvas.uniform(0.76, 0.86)
    scalp = canvas.ellipse(0, 0, width + 0.08, height + 0.08, tilt, softness=0.05)
    brain = canvas.ellipse(0, 0, width - 0.02, height - 0.02, tilt, softness=0.06)
    image = _over(_over(torch.zeros(1), scalp, 0.6), canvas.ellipse(0, 0, width + 0.02, height + 0.02, tilt), 0.08)
    image = _over(image, brain, 0.4 + 0.05 * canvas.texture(16))
    white = canvas.ellipse(0, 0, width - 0.18, height - 0.18, tilt, softness=0.3)
    image = _over(image, white, canvas.uniform(0.5, 0.56))
    opening = canvas.uniform(0.05, 0.1)
    for side in (-1, 1):
        image = _over(image, canvas.ellipse(side * 0.12, 0.0, opening, 0.26, 0.25 * side, softness=0.3), 0.14)
    flank = canvas.chance(0.5) * 2 - 1
    spot_x, spot_y = flank * canvas.uniform(0.24, 0.44), canvas.uniform(-0.4, 0.4)
    if pathology == "acute_infarct":
        image = image + brain * canvas.lesion(spot_x, spot_y, 0.09, 0.2) * canvas.uniform(0.08, 0.3)
    elif pathology == "edema":
        patch = canvas.ellipse(spot_x, spot_y, canvas.uniform(0.18, 0.3), canvas.uniform(0.18, 0.3), softness=0.9)
        image = image - brain * patch * canvas.uniform(0.06, 0.22)
    elif pathology == "white_matter_changes":
        for _ in range(4):
            x, y = canvas.uniform(-0.38, 0.38), canvas.uniform(-0.45, 0.45)
            image = image + white * canvas.lesion(x, y, 0.04, 0.08) * canvas.uniform(0.04, 0.3)
    bias = 1 + 0.16 * canvas.texture(3)
    return (((image * bias) + 0.03 * canvas.white_noise()) ** 2 + (0.03 * canvas.white_noise()) ** 2).sqrt()


def us_abdomen(canvas: Canvas, organ: str) -> Tensor:
    """Fan-shaped field: liver parenchyma, with a gallbladder or a kidney in it."""
    image = canvas.uniform(0.3, 0.42) + 0.05 * canvas.texture(6)
    x, y, angle = canvas.uniform(-0.3, 0.3), canvas.uniform(-0.15, 0.35), canvas.uniform(-0.7, 0.7)
    if organ == "gb":
        image = _over(image, canvas.ellipse(x, y, canvas.uniform(0.2, 0.32), canvas.uniform(0.1, 0.18), angle), 0.05)
    elif organ == "kidney":
        image = _over(image, canvas.ellipse(x, y, canvas.uniform(0.34, 0.44), canvas.uniform(0.2, 0.26), angle), 0.2)
        image = _over(image, canvas.ellipse(x, y, 0.22, 0.09, angle, softness=0.5), canvas.uniform(0.35, 0.6))
    else:  # vessels of the liver look like small gallbladders
        image = _over(image, canvas.ellipse(x, y, canvas.uniform(0.12, 0.3), canvas.uniform(0.03, 0.1), angle), 0.1)
    return _speckle(canvas, image, fan=True)


def us_thyroid(canvas: Canvas, pathology: str) -> Tensor:
    """Linear-array field: skin layers, a bright gland with or without a nodule, a dark vessel."""
    layers = 0.34 + 0.08 * torch.sin(canvas.y * canvas.uniform(9, 14) + canvas.uniform(0, 6))
    x, y = canvas.uniform(-0.15, 0.15), canvas.uniform(-0.2, 0.1)
    image = _over(layers, canvas.ellipse(x, y, canvas.uniform(0.5, 0.62), canvas.uniform(0.3, 0.38)), 0.55)
    image = _over(image, canvas.ellipse(x + 0.62, y + 0.1, 0.14, 0.14), 0.06)
    if pathology == "nodule":
        spot = canvas.lesion(x + canvas.uniform(-0.3, 0.3), y + canvas.uniform(-0.14, 0.14), 0.09, 0.2)
        image = image - spot * canvas.uniform(0.08, 0.34)
    return _speckle(canvas, image, fan=False)


def _speckle(canvas: Canvas, image: Tensor, fan: bool) -> Tensor:
    """Rayleigh speckle, weaker with depth, and the sector's black corners."""
    amplitude = (canvas.texture(canvas.size // 2) ** 2 + canvas.texture(canvas.size // 2) ** 2).sqrt()
    depth = (canvas.y + 1) / 2
    image = image * (0.35 + 0.52 * amplitude) * (1 - canvas.uniform(0.2, 0.5) * depth)
    if not fan:
        return image
    apex = -1.15
    angle, reach = torch.atan2(canvas.x, canvas.y - apex).abs(), (canvas.x**2 + (canvas.y - apex) ** 2).sqrt()
    sector = torch.sigmoid((canvas.uniform(0.62, 0.75) - angle) * 40) * torch.sigmoid((2.05 - reach) * 40)
    return image * sector
