from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, MaskGallery, ReinforceUpdate
from tamis.callbacks.mask_gallery import mask_figure, spread_over_classes
from tamis.modules import ImageClassifier, NoiseMaskPretraining


def fit(
    folder: Path, gallery: MaskGallery, objective: str = "reinforce", logger: TensorBoardLogger | None = None
) -> None:
    images = TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)
    update = ReinforceUpdate() if objective == "reinforce" else EnvironmentUpdate()
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        callbacks=[gallery, update],
        logger=logger or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = NoiseMaskPretraining(
        "test_resnet",
        "test_resnet",
        num_classes=3,
        grid=4,
        kernel_size=3,
        masks_per_image=2,
        objective=objective,  # type: ignore[arg-type]
    )
    trainer.fit(module, DataLoader(images, batch_size=4))


@pytest.mark.parametrize("objective", ["reinforce", "random"])
def test_pictures_are_written_every_n_iterations_and_at_the_end(tmp_path: Path, objective: str) -> None:
    fit(tmp_path, MaskGallery(every_n_iterations=3, images=2), objective)
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == ["iteration_000003.png", "iteration_000004.png"]
    picture = np.asarray(Image.open(tmp_path / "masks" / names[0]).convert("L"))
    assert picture.std() > 10  # not blank


def test_pictures_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    fit(tmp_path, MaskGallery(images=2), logger=logger)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["masks"]


def test_images_are_spread_over_the_classes() -> None:
    labels = torch.tensor([5, 5, 0, 9, 2, 0])
    assert labels[spread_over_classes(labels, 3)].tolist() == [0, 5, 9]
    assert labels[spread_over_classes(labels, 10)].tolist() == [0, 2, 5, 9]
    assert spread_over_classes(labels, 1).tolist() == [2]


def test_a_row_shows_the_image_its_masks_and_their_product() -> None:
    image, drawn = torch.randn(1, 3, 8, 8), torch.rand(1, 1, 8, 8)
    figure = mask_figure(image, torch.full((1, 1, 8, 8), 0.5), drawn, ["abd-normal"])
    shown = [torch.as_tensor(axis.images[0].get_array()) for axis in figure.axes]
    torch.testing.assert_close(shown[0], image[0, 0])
    torch.testing.assert_close(shown[3], image[0, 0] * drawn[0, 0])
    assert figure.axes[0].images[0].get_clim() == figure.axes[3].images[0].get_clim()  # one grey scale for both


def test_module_without_masks_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", callbacks=[MaskGallery()], logger=False)
    with pytest.raises(MisconfigurationException, match="not of ImageClassifier"):
        trainer.fit(ImageClassifier("test_resnet", num_classes=2), DataLoader(TensorDataset(torch.zeros(1))))


def test_impossible_options() -> None:
    with pytest.raises(ValueError, match="every_n_iterations"):
        MaskGallery(every_n_iterations=0)
