"""Random crops in a batch: boxes by hand and against torchvision's distribution, resampling against its numbers."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tamis.functional.crops import ATTEMPTS, BOX_DRAWS, crop_and_resize, crop_boxes, resampling_weights

RATIO = (3 / 4, 4 / 3)


def draws(areas: list[float], shapes: list[float], corner: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """One image's numbers; the last area and shape are repeated."""
    filled = [values + values[-1:] * (ATTEMPTS - len(values)) for values in (areas, shapes)]
    return torch.tensor([[*filled[0], *filled[1], *corner]])


def test_golden_box() -> None:
    # Area .25 + .75 * 1/3 = .5 of 100 x 100; a shape of .5 is the middle of the logarithms, 1: side sqrt(5000) = 70.7.
    # 100 - 71 = 29 leaves 30 places: .5 * 30 = 15, .9 * 30 = 27.
    box = crop_boxes(draws([1 / 3], [0.5], (0.5, 0.9)), 100, (0.25, 1.0), RATIO)
    assert box.tolist() == [[15, 27, 71, 71]]


def test_golden_shape() -> None:
    # A shape of 1 is 4 / 3: of .48 x 100 x 100 = 4800 the width is sqrt(6400) = 80 and the height sqrt(3600) = 60.
    assert crop_boxes(draws([0.0], [1.0]), 100, (0.48, 1.0), RATIO).tolist() == [[0, 0, 60, 80]]


def test_the_first_box_that_fits_is_taken() -> None:
    # The whole area at 4 / 3 is 115 wide; the second attempt is half of it, square.
    assert crop_boxes(draws([1.0, 0.0], [1.0, 0.5]), 100, (0.5, 1.0), RATIO).tolist() == [[0, 0, 71, 71]]


def test_the_whole_image_where_none_fits() -> None:
    assert crop_boxes(draws([1.0], [1.0], (0.7, 0.7)), 100, (1.0, 1.0), RATIO).tolist() == [[0, 0, 100, 100]]


def test_no_box_is_empty() -> None:
    # .08 of one pixel rounds to none.
    assert crop_boxes(draws([0.0], [0.5]), 1, (0.08, 1.0), RATIO).tolist() == [[0, 0, 1, 1]]


def test_the_largest_draw_stays_inside() -> None:
    below_one = math.nextafter(1.0, 0.0)
    numbers = torch.full((1, BOX_DRAWS), below_one).clamp(max=1 - 2**-24)
    numbers[0, : 2 * ATTEMPTS] = 0.5
    for size in (28, 64, 224, 1000, 3001):
        top, left, height, width = crop_boxes(numbers, size, (0.08, 1.0), RATIO)[0].tolist()
        assert top + height == left + width == size


def test_the_distribution_is_torchvisions() -> None:
    torch.manual_seed(0)
    number, size, scale = 4000, 64, (0.08, 1.0)
    crop = v2.RandomResizedCrop(size, scale=scale)
    image = torch.zeros(1, size, size)
    theirs = [crop.make_params([image]) for _ in range(number)]
    expected = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in theirs]).double()
    ours = crop_boxes(torch.rand(number, BOX_DRAWS), size, scale, RATIO).double()
    for power in (1, 2):
        left, right = ours**power, expected**power
        error = ((left.var(dim=0) + right.var(dim=0)) / number).sqrt()
        assert ((left.mean(dim=0) - right.mean(dim=0)).abs() < 4 * error).all()


@pytest.mark.parametrize("size", [16, 40, 90])  # smaller than every box, between, larger than the image
def test_resampling_is_torchvisions(size: int) -> None:
    torch.manual_seed(1)
    images = torch.rand(6, 2, 48, 60) * 255
    boxes = torch.tensor(
        [[0, 0, 48, 60], [5, 7, 30, 20], [40, 50, 8, 10], [47, 0, 1, 60], [3, 59, 45, 1], [0, 1, 47, 3]]
    )
    expected = torch.stack(
        [
            functional.resized_crop(i, *b, [size, size], antialias=True)
            for i, b in zip(images, boxes.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(crop_and_resize(images, boxes, size), expected, atol=0.02, rtol=0)


def test_the_whole_image_at_its_size_is_itself() -> None:
    images = torch.rand(2, 1, 30, 30)
    assert torch.equal(crop_and_resize(images, torch.tensor([[0, 0, 30, 30]] * 2), 30), images)


def test_golden_weights() -> None:
    # Two pixels from pixel 1 on, four samples at 1.25, 1.75, 2.25, 2.75 between the centres 1.5 and 2.5; beyond the
    # outer centres the edge goes on.
    weights = resampling_weights(torch.tensor([1.0]), torch.tensor([2.0]), 4, 4)
    assert weights.tolist() == [[[0, 1, 0, 0], [0, 0.75, 0.25, 0], [0, 0.25, 0.75, 0], [0, 0, 1, 0]]]
    # Four pixels into two: samples at 1 and 3, triangles of two pixels to each side: 1 - .5 / 2 twice, 1 - 1.5 / 2.
    halved = resampling_weights(torch.tensor([0.0]), torch.tensor([4.0]), 4, 2)
    expected = torch.tensor([0.75, 0.75, 0.25, 0.0]) / 1.75
    torch.testing.assert_close(halved[0], torch.stack([expected, expected.flip(0)]))


def slow_weight(pixel: int, sample: int, start: float, length: float, size: int) -> float:
    if not start <= pixel < start + length:
        return 0.0
    step = length / size
    centre = start + (sample + 0.5) * step
    return max(0.0, 1 - abs(pixel + 0.5 - centre) / max(step, 1.0))


def test_weights_by_the_slow_formula() -> None:
    for start, length, pixels, size in ((0, 9, 9, 4), (2, 5, 9, 7), (8, 1, 9, 3), (1, 8, 9, 8)):
        weights = resampling_weights(torch.tensor([float(start)]), torch.tensor([float(length)]), pixels, size)[0]
        for sample in range(size):
            row = torch.tensor([slow_weight(pixel, sample, start, length, size) for pixel in range(pixels)])
            torch.testing.assert_close(weights[sample], row / row.sum())


def test_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(2)
    images, numbers = torch.rand(8, 1, 32, 32), torch.rand(8, BOX_DRAWS)
    boxes = crop_boxes(numbers, 32, (0.08, 1.0), RATIO)
    together = crop_and_resize(images, boxes, 24)
    for row in (0, 5):
        alone = crop_boxes(numbers[row : row + 1], 32, (0.08, 1.0), RATIO)
        assert torch.equal(alone[0], boxes[row])
        torch.testing.assert_close(crop_and_resize(images[row : row + 1], alone, 24)[0], together[row])
