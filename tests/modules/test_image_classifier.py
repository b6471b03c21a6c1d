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
    for name, message in (("text.pt", "cannot be read"), ("other.pt", "not an exported classifier")):
        with pytest.raises(ValueError, match=message):
            trainer().fit(ImageClassifier("test_resnet", weights=str(tmp_path / name)), BrightAndDark())
