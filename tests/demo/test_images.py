import math
from pathlib import Path

import pytest

from tamis.datamodules import Phantoms
from tamis.demo.images import ARMS, METRICS, ArmResult, ImageResults, results_figure, run_images
from tamis.modules import NoiseMaskPretraining


def results(baseline: list[float], learned: list[float]) -> ImageResults:
    arms = [ArmResult("baseline", {"accuracy": baseline}), ArmResult("learned mask", {"accuracy": learned})]
    return ImageResults(arms, list(range(len(baseline))), [], 2000, Path("picture.png"))


def test_mean_and_standard_error_by_hand() -> None:
    arm = ArmResult("baseline", {"accuracy": [0.6, 0.7, 0.8]})
    assert arm.mean("accuracy") == pytest.approx(0.7)
    assert arm.standard_error("accuracy") == pytest.approx(0.1 / math.sqrt(3))
    assert math.isnan(ArmResult("baseline", {"accuracy": [0.6]}).standard_error("accuracy"))


def test_the_summary_adds_the_errors_of_seeds_and_images() -> None:
    # Differences -.01, .00, -.02: mean -.01, seeds' error .01 / sqrt(3) = .0058; the test images' own error is
    # sqrt((.70 * .30 + .69 * .31) / 2000) = .0146; together .0157.
    text = results([0.60, 0.70, 0.80], [0.59, 0.70, 0.78]).summary()
    assert text.endswith("accuracy -0.010 ± 0.016 (3 seeds and 2000 test images): no difference beyond noise.")


def test_one_seed_gets_the_binomial_error() -> None:
    # sqrt((.5 * .5 + .5 * .5) / 2000) = .0158
    text = results([0.5], [0.5]).summary()
    assert text.endswith("accuracy +0.000 ± 0.016 (1 seed and 2000 test images): no difference beyond noise.")


def test_the_figure_shows_one_image_of_each_anatomy(tmp_path: Path, phantoms: Path) -> None:
    data = Phantoms(str(phantoms), 30, 15, 15, phantom_size=48, image_size=32, batch_size=15)
    data.setup("fit")
    module = NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=15, grid=4, kernel_size=3)
    arms = [ArmResult(name, {metric: [0.5, 0.6] for metric in METRICS}) for name in ARMS]
    figure = results_figure(ImageResults(arms, [0, 1], [], 15, tmp_path / "p.png"), module, data)
    figure.savefig(tmp_path / "p.png")
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert [title.splitlines()[0] for title in titles[:3]] == ["CT abd", "MR brain", "CT lung"]
    assert len(titles) == 6  # five anatomies, and the scores


def test_no_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        run_images(tmp_path, [])
