"""Order and randomness of training images: the seed, the epoch and the image decide; workers and ranks do not."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from tamis.datamodules import MedMNIST, NoiseAugmentation, RadImageNet
from tamis.datamodules.image_sources import ArrayImages, ImageSplit, SquareCrop, SquareImages
from tamis.datamodules.images import ImageDataModule
from tamis.datamodules.sampling import EpochSampler, SampleKey, augmentation_draws, balanced_weights


def images(count: int) -> SquareImages:
    split = ImageSplit(torch.zeros(count).long(), ArrayImages(torch.zeros(count, 4, 4, dtype=torch.uint8)))
    return SquareImages(split, SquareCrop(4, 4))


def order(epoch: int = 0, count: int = 20, **options: object) -> list[int]:
    sampler = EpochSampler(images(count), **{"seed": 0, **options})  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert {key.epoch for key in keys} == {epoch}
    return [key.image for key in keys]


def test_every_image_once_in_another_order_every_epoch_and_seed() -> None:
    orders = [order(epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert all(sorted(found) == list(range(20)) for found in orders)
    assert len({tuple(found) for found in orders}) == 9  # seed 1's first epoch is not seed 0's second
    assert order(2, seed=1) == order(2, seed=1)


def test_ranks_share_the_order_of_one_process() -> None:
    whole = order(1)
    parts = [order(1, num_replicas=2, rank=rank) for rank in range(2)]
    assert [image for pair in zip(*parts, strict=True) for image in pair] == whole
    # With 7 images on 2 ranks the first image fills up the last round.
    uneven = [order(1, count=7, num_replicas=2, rank=rank) for rank in range(2)]
    assert [image for pair in zip(*uneven, strict=True) for image in pair] == [*order(1, count=7), order(1, count=7)[0]]


def test_more_ranks_than_images() -> None:
    assert [len(order(count=1, num_replicas=3, rank=rank)) for rank in range(3)] == [1, 1, 1]


def test_balanced_weights_by_hand() -> None:
    # Classes 0 and 2 occur, three times and once: half of the probability each.
    weights = balanced_weights(torch.tensor([0, 0, 2, 0]))
    torch.testing.assert_close(weights, torch.tensor([1 / 6, 1 / 6, 1 / 2, 1 / 6]).double())


def test_balanced_sampling_draws_classes_alike_on_all_ranks_together() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    whole = order(4, count=1000, class_labels=labels)
    counts = labels[whole].bincount()
    assert counts.sum() == 1000
    assert ((counts - 333.3).abs() < 4 * (1000 * 2 / 9) ** 0.5).all()
    parts = [order(4, count=1000, class_labels=labels, num_replicas=2, rank=rank) for rank in range(2)]
    assert [image for pair in zip(*parts, strict=True) for image in pair] == whole
    assert whole != order(5, count=1000, class_labels=labels)


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    keys = [SampleKey(0, 1), SampleKey(0, 2), SampleKey(1, 1), SampleKey(1, 2)]
    draws = augmentation_draws(keys, 5, 40)
    assert draws.shape == (4, 40)
    assert 0 <= draws.min() <= draws.max() < 1
    assert len(draws.unique()) == 160  # no stream runs on into another's
    for position, key in enumerate(keys):
        assert torch.equal(augmentation_draws([key], 5, 40)[0], draws[position])
    assert not torch.equal(augmentation_draws(keys, 6, 40), draws)
    assert torch.equal(augmentation_draws(keys, 5, 50)[:, :40], draws)  # asking for more adds numbers
    assert augmentation_draws([], 5, 6).shape == (0, 6)


def test_draws_are_uniform_over_images_and_epochs() -> None:
    keys = [SampleKey(epoch, image) for epoch in range(20) for image in range(200)]
    draws = augmentation_draws(keys, 0, 5)
    # 4,000 each: standard errors sqrt(1 / 12 / 4000) = .0046 of a mean, sqrt(1 / 180 / 4000) = .0012 of a variance.
    assert ((draws.mean(dim=0) - 0.5).abs() < 4 * 0.0046).all()
    assert ((draws.var(dim=0) - 1 / 12).abs() < 4 * 0.0012).all()
    neighbours = torch.corrcoef(torch.stack([draws[:-1].flatten(), draws[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 4 / len(draws) ** 0.5


def test_a_plain_number_is_the_image_in_epoch_0() -> None:
    split = images(5).split
    dataset = SquareImages(split, SquareCrop(4, 4), draws=3, seed=9)
    assert torch.equal(dataset[2].draws, augmentation_draws([SampleKey(0, 2)], 9, 3))
    assert len(dataset[SampleKey(1, 2)].labels) == 1


# In the datamodules


def seen(data: ImageDataModule, epochs: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Every batch of some epochs, as the network sees it."""
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined] # what the Trainer does
        found += [tuple(data.on_after_batch_transfer(batch, 0)) for batch in loader]
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_workers_change_nothing(phantoms: Path, sampling: str) -> None:
    def run(workers: int, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
        noise = NoiseAugmentation("rician", probability=0.5)
        options = {"image_size": 32, "num_workers": workers, "noise": noise, "data_seed": seed, "sampling": sampling}
        return seen(RadImageNet(str(phantoms), 7, **options))  # type: ignore[arg-type]

    alone, two = run(0), run(2)
    assert len(alone) == 8
    for left, right in zip(alone, two, strict=True):
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1], right[1])
    assert not torch.equal(alone[0][0], alone[4][0])
    assert not torch.equal(alone[0][0], run(0, seed=4)[0][0])


def test_another_epoch_augments_the_same_image_otherwise(npz: Path) -> None:
    data = MedMNIST(str(npz), batch_size=12)
    (first, labels), (second, other_labels) = seen(data)
    assert len(first) == len(first.flatten(1).unique(dim=0))
    both = torch.cat([first, second])
    assert len(both.flatten(1).unique(dim=0)) == 24
    assert sorted(labels.tolist()) == sorted(other_labels.tolist())


def test_torchs_random_state_neither_matters_nor_changes(npz: Path) -> None:
    torch.manual_seed(1)
    first = seen(MedMNIST(str(npz), batch_size=6), epochs=1)
    torch.manual_seed(2)
    data = MedMNIST(str(npz), batch_size=6)
    data.setup("fit")
    loader = iter(data.train_dataloader())  # draws the base seed of its workers
    before = torch.get_rng_state()
    for expected, batch in zip(first, loader, strict=True):
        assert torch.equal(data.on_after_batch_transfer(batch, 0).images, expected[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_everything_is_the_seed_unless_one_is_given(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(seed: int | None) -> Tensor:
        return seen(MedMNIST(str(npz), batch_size=12, data_seed=seed), epochs=1)[0][0]

    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    eleven = run(None)
    assert torch.equal(run(11), eleven)
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    assert not torch.equal(run(None), eleven)
    assert torch.equal(run(11), eleven)


def test_evaluation_has_neither_order_nor_draws(npz: Path) -> None:
    data = MedMNIST(str(npz), batch_size=5)
    data.setup("fit")
    data.setup("test")
    for loader in (data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert [batch.draws.shape for batch in batches] == [(5, 0), (5, 0), (2, 0)]
        assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 2] * 4


class Watcher(LightningModule):
    """Keeps what it is given and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[0].clone())
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_trainer_tells_the_epoch_and_resumes_at_it(npz: Path, tmp_path: Path, workers: int) -> None:
    def train(epochs: int, checkpoint: Path | None = None) -> tuple[Trainer, list[Tensor]]:
        module = Watcher()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
        data = MedMNIST(str(npz), batch_size=6, num_workers=workers)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return trainer, module.seen

    _, whole = train(3)
    assert len(torch.cat(whole).flatten(1).unique(dim=0)) == 3 * 12  # no image twice alike
    trainer, first = train(1)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    _, rest = train(3, tmp_path / "after.ckpt")
    for left, right in zip([*first, *rest], whole, strict=True):
        assert torch.equal(left, right)
