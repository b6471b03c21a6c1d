from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.classification import classification_metrics


class BrightAndDark(LightningDataModule):
    """Two classes that differ in brightness."""

    num_classes = 2

    def loader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        labels = torch.arange(16) % 2
        images = torch.randn(16, 3, 32, 32) * 0.3 + labels.view(-1, 1, 1, 1) * 2 - 1
        return DataLoader(TensorDataset(images, labels), batch_size=8)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def trainer(epochs: int = 1) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)  # type: ignore[arg-type]


def test_metrics_by_hand() -> None:
    # Class 0: 3 of 3 right; class 1: 0 of 1 right.
    metrics = classification_metrics(2)["val_metrics"]
    metrics.update(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))  # type: ignore[operator]
    values = {name: round(float(value), 4) for name, value in metrics.compute().items()}  # type: ignore[operator]
    expected = {"val/accuracy": 0.75, "val/balanced_accuracy": 0.5, "val/macro_f1": round(6 / 7 / 2, 4)}
    assert {name: values[name] for name in expected} == expected


def test_it_learns_takes_the_classes_from_the_data_and_reports() -> None:
    module, run = ImageClassifier("test_resnet", optimizer=adam), trainer(epochs=6)
    run.fit(module, BrightAndDark())
    assert run.callback_metrics["val/accuracy"] == 1
    run.test(module, BrightAndDark(), verbose=False)
    assert {"test/accuracy", "test/balanced_accuracy", "test/macro_f1"} <= set(run.callback_metrics)


def test_classes_must_agree_with_the_data() -> None:
    with pytest.raises(ValueError, match="num_classes is 5, but BrightAndDark found 2"):
        trainer().fit(ImageClassifier("test_resnet", num_classes=5), BrightAndDark())


def test_checkpoint_and_weights_round_trip(tmp_path: Path) -> None:
    module, run = ImageClassifier("test_resnet", optimizer=adam), trainer()
    run.fit(module, BrightAndDark())
    run.save_checkpoint(tmp_path / "last.ckpt")
    module.export(tmp_path)
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    weighted = ImageClassifier("test_resnet", weights=str(tmp_path))
    trainer().test(weighted, BrightAndDark(), verbose=False)
    torch.testing.assert_close(loaded.classifier.state_dict(), module.classifier.state_dict())
    torch.testing.assert_close(weighted.classifier.state_dict(), module.classifier.state_dict())


def test_testing_after_the_fit_sees_the_trained_network(tmp_path: Path) -> None:
    ImageClassifier("test_resnet", num_classes=2).export(tmp_path)
    module, run = ImageClassifier("test_resnet", weights=str(tmp_path), optimizer=adam), trainer()
    run.fit(module, BrightAndDark())
    trained = module.classifier.state_dict()["fc.weight"].clone()
    run.test(module, BrightAndDark(), verbose=False)
    torch.testing.assert_close(module.classifier.state_dict()["fc.weight"], trained)


def test_heated_weights_are_what_fine_tuning_starts_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heated = NoiseMaskPretraining("test_resnet", "test_resnet", num_classes=2, grid=4)
    heated.export(tmp_path)
    module, run = ImageClassifier("test_resnet", weights=str(tmp_path / "classifier.pt")), trainer(epochs=0)
    run.fit(module, BrightAndDark())
    torch.testing.assert_close(module.classifier.state_dict(), heated.classifier.state_dict())


def test_reset_head_moves_on_to_other_classes(tmp_path: Path) -> None:
    donor = ImageClassifier("test_resnet", num_classes=7)
    donor.export(tmp_path)
    module = ImageClassifier("test_resnet", weights=str(tmp_path), reset_head=True)
    trainer().test(module, BrightAndDark(), verbose=False)
    assert isinstance(module.classifier.fc, nn.Linear)
    assert module.classifier.fc.out_features == 2
    torch.testing.assert_close(*(m.classifier.get_parameter("conv1.0.weight") for m in (module, donor)))


@pytest.mark.parametrize(
    ("backbone", "classes", "message"),
    [("test_efficientnet", 2, "set backbone to test_efficientnet"), ("test_resnet", 7, "trained on 7 classes.*has 2")],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, backbone: str, classes: int, message: str) -> None:
    ImageClassifier(backbone, num_classes=classes).export(tmp_path)
    with pytest.raises(ValueError, match=message):
        trainer().fit(ImageClassifier("test_resnet", weights=str(tmp_path)), BrightAndDark())


def test_unusable_weight_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"something": 1}, tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*missing\.pt"):
        trainer().fit(ImageClassifier("test_resnet", weights=str(tmp_path / "missing.pt")), BrightAndDark())
    for name, message in (("text.pt", "cannot be read"), ("other.pt", "holds no weights: it has the keys something")):
        with pytest.raises(ValueError, match=message):
            trainer().fit(ImageClassifier("test_resnet", weights=str(tmp_path / name)), BrightAndDark())


def linear_probe(tmp_path: Path) -> ImageClassifier:
    ImageClassifier("resnet10t", num_classes=2).export(tmp_path)
    return ImageClassifier("resnet10t", weights=str(tmp_path), trainable="head", optimizer=adam)


def test_a_linear_probe_learns_and_nothing_before_the_last_layer_moves(tmp_path: Path) -> None:
    module, run = linear_probe(tmp_path), trainer(epochs=8)
    data = BrightAndDark()
    run.fit(module, data)
    before = torch.load(tmp_path / "classifier.pt", weights_only=True)["state_dict"]
    moved = {name for name, tensor in module.classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"fc.weight", "fc.bias"}  # no running statistic and no counter either
    assert [p.shape for group in run.optimizers[0].param_groups for p in group["params"]] == [(2, 512), (2,)]
    assert run.callback_metrics["val/accuracy"] == 1


def test_a_linear_probe_stays_frozen_in_training_mode(tmp_path: Path) -> None:
    module = ImageClassifier("resnet10t", num_classes=2, trainable="head").eval().train()
    modes = {name: layer.training for name, layer in module.classifier.named_modules()}
    assert {name for name, training in modes.items() if training} == {"fc"}
    assert not module.eval().classifier.get_submodule("fc").training


def test_a_probe_of_a_random_network_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a random network that stays as it is"):
        trainer().fit(ImageClassifier("test_resnet", trainable="head"), BrightAndDark())


def test_a_probe_of_weights_is_not_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    trainer().fit(linear_probe(tmp_path), BrightAndDark())
    assert not [w for w in recwarn if "random network" in str(w.message)]


def one_image_a_step(images: int, batch_size: int) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(images, 3, 32, 32), torch.zeros(images).long()), batch_size=batch_size)


@pytest.mark.parametrize(("images", "batch_size"), [(3, 1), (5, 2)])
def test_a_batch_of_one_is_refused_before_it_moves_anything(images: int, batch_size: int) -> None:
    module = ImageClassifier("test_resnet", num_classes=2)
    before = {name: tensor.clone() for name, tensor in module.classifier.state_dict().items()}
    with pytest.raises(ValueError, match=r"needs at least 2 images a training step.*batch_size.*drop_last"):
        trainer().fit(module, one_image_a_step(images, batch_size))
    torch.testing.assert_close(module.classifier.state_dict(), before, rtol=0, atol=0)


def test_a_frozen_network_takes_a_batch_of_one() -> None:
    trainer().fit(ImageClassifier("test_resnet", num_classes=2, trainable="head"), one_image_a_step(3, 1))


def test_channels_last_is_a_layout_and_no_other_network() -> None:
    images = torch.randn(4, 3, 48, 48)
    plain = ImageClassifier("resnet10t", num_classes=3).eval()
    torch.manual_seed(0)
    torch.randn(4, 3, 48, 48)
    other = ImageClassifier("resnet10t", num_classes=3, channels_last=True).eval()
    seen: list[torch.Tensor] = []
    other.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.testing.assert_close(other(images), plain(images), rtol=0, atol=1e-5)
    weight = other.classifier.get_parameter("layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()


def test_channels_last_trains_and_keeps_its_layout_when_weights_are_loaded(tmp_path: Path) -> None:
    ImageClassifier("test_resnet", num_classes=2).export(tmp_path)
    module = ImageClassifier("test_resnet", weights=str(tmp_path), channels_last=True, optimizer=adam)
    trainer().fit(module, BrightAndDark())
    kernels = [p for p in module.classifier.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
