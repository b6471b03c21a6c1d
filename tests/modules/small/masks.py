"""A small noise mask and small images, and a few steps of training on them."""

from functools import partial

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tamis.modules import NoiseMaskPretraining


def noise_mask(**options: object) -> NoiseMaskPretraining:
    settings: dict[str, object] = {
        "backbone": "test_resnet",
        "policy_backbone": "test_resnet",
        "num_classes": 3,
        "grid": 4,
        "kernel_size": 5,
        "sigma": 1.5,
        "masks_per_image": 2,
        "decay": 0.0,
        "policy_optimizer": partial(torch.optim.Adam, lr=1e-2),
    }
    return NoiseMaskPretraining(**(settings | options))  # type: ignore[arg-type]


def batch(images: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(images, 3, 32, 32), torch.arange(images) % 3


def quiet_trainer(*callbacks: Callback, steps: int) -> Trainer:
    return Trainer(
        max_epochs=steps,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(module: NoiseMaskPretraining, *callbacks: Callback, steps: int = 2, images: int = 4) -> Trainer:
    trainer = quiet_trainer(*callbacks, steps=steps)
    trainer.fit(module, DataLoader(TensorDataset(*batch(images)), batch_size=images))
    return trainer


def parameters(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
