"""MONAI's noise as augmentation: each kind against a property that its physics gives, and its draws over all."""

import math
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tamis.cli import run
from tamis.datamodules import MedMNIST, NoiseAugmentation, Phantoms
from tamis.datamodules.images import ImageDataModule
from tamis.datamodules.noise_augmentation import DEFAULT_STRENGTHS, NOISE_DRAWS, NoiseKind

KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
SIZE = 64


def flat(value: int, channels: int = 1) -> Tensor:
    return torch.full((channels, SIZE, SIZE), value, dtype=torch.uint8)


def busy(channels: int = 1) -> Tensor:
    """An image with energy in all of its k-space."""
    return torch.randint(256, (channels, SIZE, SIZE), dtype=torch.uint8)


def fixed(kind: NoiseKind, strength: float) -> NoiseAugmentation:
    return NoiseAugmentation(kind, strength=(strength, strength))


def shares(image: Tensor) -> Tensor:
    """Of the full range, in double precision."""
    return image.double() / 255


def applied(noise: NoiseAugmentation, image: Tensor) -> Tensor:
    """The noise on one image, of numbers from torch's random state."""
    return noise(image.float().unsqueeze(0), torch.rand(1, NOISE_DRAWS)).squeeze(0)


def spectrum(image: Tensor) -> Tensor:
    """The k-space, frequency 0 in the centre."""
    k_space: Tensor = torch.fft.fftshift(torch.fft.fft2(shares(image)), dim=(-2, -1))
    return k_space


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Equal grey images: whatever differs between two is noise."""
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.full((12, 28, 28), 100, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(12, dtype=np.uint8) % 3
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def augmented(data: ImageDataModule) -> Tensor:
    """The first training batch as the network sees it."""
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0).images


# What each kind does to an image


def test_gaussian_noise_has_mean_zero_and_the_asked_deviation_everywhere() -> None:
    for grey in (0, 128):  # clipping would give it a mean at 0
        change = shares(applied(fixed("gaussian", 0.1), flat(grey))) - grey / 255
        # 4,096 pixels: standard errors .1 / 64 = .0016 of the mean and .0011 of the deviation.
        assert abs(change.mean()) < 4 * 0.0016
        assert abs(change.std() - 0.1) < 4 * 0.0011
        neighbours = torch.corrcoef(torch.stack([change[0, :, 1:].flatten(), change[0, :, :-1].flatten()]))[0, 1]
        assert abs(neighbours) < 4 / SIZE


def test_rician_noise_is_a_magnitude() -> None:
    dark = shares(applied(fixed("rician", 0.1), flat(0)))
    # In the dark a Rayleigh distribution: mean sigma sqrt(pi / 2) = .1253, deviation sigma sqrt(2 - pi / 2) = .0655.
    assert dark.min() >= 0
    assert abs(dark.mean() - 0.1 * math.sqrt(math.pi / 2)) < 4 * 0.0655 / SIZE
    assert abs(dark.std() - 0.1 * math.sqrt(2 - math.pi / 2)) < 4 * 0.0655 / SIZE
    bright = shares(applied(fixed("rician", 0.05), flat(255))) - 1
    # Far above the noise nearly Gaussian, raised by sigma^2 / 2A = .00125; standard error .05 / 64 = .00078.
    assert abs(bright.mean() - 0.00125) < 4 * 0.00078
    assert abs(bright.std() - 0.05) < 4 * 0.00078


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
def test_gibbs_noise_cuts_the_k_space_off_and_touches_nothing_within(alpha: float) -> None:
    image = busy()
    before, after = spectrum(image), spectrum(applied(fixed("gibbs", alpha), image))
    rows = torch.arange(SIZE) - SIZE // 2
    distance = (rows[:, None] ** 2 + rows[None, :] ** 2).sqrt().expand(1, SIZE, SIZE)
    radius = (1 - alpha) * SIZE * math.sqrt(2) / 2
    # MONAI's circle is half a point off the centre in each direction: within .71 of the radius either may be.
    beyond, within = distance > radius + 0.71, distance < radius - 0.71
    assert before[beyond].abs().min() > 0.01
    assert after[beyond].abs().max() < 1e-3 * before[beyond].abs().mean()
    torch.testing.assert_close(after[within], before[within], atol=1e-3, rtol=1e-4)
    assert within.sum() > 20


def test_a_spike_changes_one_point_of_the_k_space_and_its_mirror() -> None:
    image = busy()
    for _ in range(5):
        noisy = applied(fixed("k_space_spike", 0.4), image)
        difference = spectrum(noisy) - spectrum(image)
        changed = (difference.abs() > 1).nonzero()[:, 1:] - SIZE // 2
        assert len(changed) == 2  # one alone only on the axis of symmetry, which these draws miss
        assert torch.equal(changed[0] % SIZE, -changed[1] % SIZE)
        others = difference.abs().flatten().sort().values[:-2]
        assert others.max() < 0.01
        # Stripes of deviation .4, less what the component had itself: |K| is about 64 * .29 = 18 of 2317.
        assert abs((shares(noisy) - shares(image)).std() - 0.4) < 0.03


def test_strengths_are_drawn_for_each_image_within_their_range() -> None:
    noise = NoiseAugmentation("gaussian", strength=(0.1, 0.3))
    drawn = torch.stack([shares(applied(noise, flat(128))).std() for _ in range(60)])
    assert drawn.min() > 0.095
    assert drawn.max() < 0.31
    assert abs(drawn.mean() - 0.2) < 4 * 0.2 / math.sqrt(12 * 60)
    assert drawn.std() > 0.04  # .2 / sqrt(12) = .058


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_and_probability_zero_are_the_identity(kind: NoiseKind) -> None:
    image = busy(3)
    assert torch.equal(applied(fixed(kind, 0.0), image), image.float())
    assert torch.equal(applied(NoiseAugmentation(kind, probability=0.0), image), image.float())


def test_probability_is_the_share_of_noisy_images() -> None:
    noise = NoiseAugmentation("rician", probability=0.3)
    noisy = sum(not torch.equal(applied(noise, flat(99)), flat(99).float()) for _ in range(200))
    assert abs(noisy - 60) < 4 * math.sqrt(200 * 0.3 * 0.7)


@pytest.mark.parametrize("kind", KINDS)
def test_colour_channels(kind: NoiseKind) -> None:
    image = flat(0, 3)
    image[:, 20:40, 20:40] = 200
    change = applied(fixed(kind, 0.5), image) - image.float()
    assert change.shape == (3, SIZE, SIZE)
    assert type(change) is Tensor  # MONAI's own subclass would travel on into the network
    shared = torch.allclose(change[0], change[1], atol=1e-3)
    assert shared == (kind in ("gibbs", "k_space_spike"))  # one k-space for all; a sensor's noise is each channel's own


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_change_a_phantom_as_much_as_a_random_mask(kind: NoiseKind, phantoms: Phantoms) -> None:
    phantoms.setup("fit")
    images = [phantoms.split("train").source.read(index) for index in range(400)]
    noise = NoiseAugmentation(kind)
    deviations = torch.stack([(shares(applied(noise, image)) - shares(image)).std() for image in images])
    assert deviations.mean() == pytest.approx(0.08, abs=0.01)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    root = tmp_path_factory.mktemp("noise") / "phantoms"
    data = Phantoms(str(root), 400, 15, 15, phantom_size=48, image_size=48, crop_scale=(0.6, 1.0))
    data.prepare_data()
    return data


# The draws decide


@pytest.mark.parametrize("kind", KINDS)
def test_the_draws_decide_the_noise_and_every_image_has_its_own(kind: NoiseKind) -> None:
    images, noise = busy().float().expand(2, 1, SIZE, SIZE), NoiseAugmentation(kind)
    draws = torch.rand(2, NOISE_DRAWS)
    first = noise(images, draws)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(noise(images, draws), first)
    assert torch.equal(noise(images[1:], draws[1:]), first[1:])  # whatever stands beside it in the batch
    assert not torch.equal(first[0], first[1])
    seeded = draws.clone()
    seeded[:, 1 if kind == "gibbs" else 2] *= 0.9  # of a radius and no chance, its strength is all there is to draw
    assert not torch.equal(noise(images, seeded), first)


def test_random_states_are_left_alone() -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    draws, before = torch.zeros(1, NOISE_DRAWS), torch.get_rng_state()
    for kind in KINDS:
        NoiseAugmentation(kind, strength=(0.3, 0.3))(flat(7).float().unsqueeze(0), draws)
    after = np.random.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    np.random.seed(5)
    assert np.array_equal(after, np.random.rand(3))


# In the datamodules


@pytest.mark.parametrize("kind", KINDS)
def test_only_training_images_are_noisy(kind: NoiseKind, phantoms: Phantoms) -> None:
    noisy = Phantoms(
        str(phantoms.root), 400, 15, 15, phantom_size=48, image_size=48, batch_size=15, noise=NoiseAugmentation(kind)
    )
    clean = Phantoms(str(phantoms.root), 400, 15, 15, phantom_size=48, image_size=48, batch_size=15)
    for data in (noisy, clean):
        data.setup("fit")
        data.setup("test")
    for name in ("val", "test"):
        loaders = [getattr(data, f"{name}_dataloader")() for data in (noisy, clean)]
        for left, right in zip(*loaders, strict=True):
            assert left.images.dtype == torch.uint8
            assert torch.equal(left.images, right.images)
    left, right = (augmented(data) for data in (noisy, clean))
    assert not torch.equal(left, right)
    mended = Phantoms(
        str(phantoms.root),
        *(400, 15, 15),
        phantom_size=48,
        image_size=48,
        batch_size=15,
        noise=NoiseAugmentation(kind, probability=0.0),
    )
    mended.setup("fit")
    assert torch.equal(augmented(mended), right)  # crops and flips do not depend on the noise


def test_noise_is_normalised_with_the_image_and_never_clipped(npz: Path) -> None:
    data = MedMNIST(str(npz), batch_size=12, mean=0.2, std=0.5, noise=fixed("gaussian", 0.4))
    data.setup("fit")
    images = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0).images
    assert images.shape == (12, 3, 28, 28)
    # Mean (100 / 255 - .2) / .5 = .3843 and deviation .4 / .5; 9,408 pixels, standard error .8 / 97 = .0082.
    assert abs(images[:, 0].mean() - 0.3843) < 4 * 0.0082
    assert abs(images[:, 0].std() - 0.8) < 4 * 0.0082


def test_the_kind_is_one_flag_of_the_command_line(tmp_path: Path) -> None:
    config = files("tamis.configs") / "quickstart" / "phantoms_monai_noise.yaml"
    flags = ["--data.train_images=30", "--data.val_images=15", "--data.test_images=15", "--data.batch_size=8"]
    flags += [f"--data.root={tmp_path / 'phantoms'}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    flags += ["--data.noise.kind=gibbs", f"--run_dir={tmp_path / 'run'}", "--trainer.enable_progress_bar=false"]
    cli = run(["fit", f"--config={config}", *flags])
    assert isinstance(cli.datamodule, Phantoms)
    assert cli.datamodule.augmentation.noise == NoiseAugmentation("gibbs")
    assert (tmp_path / "run" / "model" / "classifier.pt").is_file()


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ricien"}, "one of gaussian, rician, gibbs, k_space_spike, got 'ricien'"),
        ({"kind": "rician", "probability": 1.5}, r"probability must lie in \[0, 1\], got 1.5"),
        ({"kind": "gaussian", "strength": (-0.1, 0.1)}, "strength of gaussian noise .* 0 <= low <= high, got -0.1"),
        ({"kind": "gaussian", "strength": (0.2, 0.1)}, "got 0.2 and 0.1"),
        ({"kind": "gaussian", "strength": (0.1, math.inf)}, "got 0.1 and inf"),
        ({"kind": "gibbs", "strength": (0.0, 1.0)}, "strength of gibbs noise .* 0 <= low <= high < 1, got 0.0 and 1.0"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseAugmentation(**options)


def test_a_wrong_kind_on_the_command_line_names_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["fit", "--model=ImageClassifier", "--data=Phantoms", "--data.noise.kind=ricien"])
    assert "'gaussian', 'rician', 'gibbs', 'k_space_spike'" in capsys.readouterr().err


def test_every_kind_has_a_default_strength() -> None:
    assert set(DEFAULT_STRENGTHS) == set(KINDS)
