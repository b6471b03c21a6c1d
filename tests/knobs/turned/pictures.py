"""Options of the image modules, seen in fits of a network of a few thousand weights on 12 small images."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from tamis.callbacks import (
    ClassificationReport,
    EnvironmentUpdate,
    LastEpochsAverage,
    MaskDiagnostics,
    MaskGallery,
    ModelExport,
    ReinforceUpdate,
)
from tamis.datamodules import MedMNIST
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.image_loss import ClassBalance

from .learning import QUIET
from .turning import Knobs, Of, Options, Turn


class Material(NamedTuple):
    """What the image parts work on.

    Args:
        npz: 28 grey pixels, classes of 6, 4 and 2 images.
        weights: a classifier that a fit has left, of three classes.
    """

    npz: Path
    weights: str


def material(folder: Path) -> Material:
    """Write it."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = np.array([0] * 6 + [1] * 4 + [2] * 2, dtype=np.uint8).reshape(-1, 1)
        arrays[f"{split}_images"] = draw.integers(0, 255, (12, 28, 28), dtype=np.uint8)
    np.savez(folder / "set.npz", **arrays)
    torch.manual_seed(7)
    module = ImageClassifier("test_resnet", 3)
    module.export(folder)
    return Material(folder / "set.npz", str(folder / "classifier.pt"))


@contextlib.contextmanager
def heard() -> Iterator[io.StringIO]:
    """What is warned of and told meanwhile."""
    text = io.StringIO()
    handler, told = logging.StreamHandler(text), logging.getLogger("lightning.pytorch.utilities.rank_zero")
    told.addHandler(handler)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield text
    told.removeHandler(handler)
    text.write("\n".join(str(one.message) for one in seen))


class Fit(NamedTuple):
    """A module after its fit, and what was logged."""

    module: Any
    metrics: dict[str, Tensor]
    said: str


def fit(folder: Path, module: Any, npz: Path, *callbacks: Callback, epochs: int = 1, **options: Any) -> Fit:
    """Two steps an epoch."""
    data = MedMNIST(str(npz), batch_size=4, data_seed=0)
    options = {"limit_train_batches": 2, "limit_val_batches": 0} | options
    with heard() as said:
        trainer = Trainer(max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, **QUIET | options)
        trainer.fit(module, datamodule=data)
    return Fit(module, dict(trainer.logged_metrics), said.getvalue())


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _mask(options: Options) -> NoiseMaskPretraining:
    small: Options = {"backbone": "test_resnet", "policy_backbone": "test_resnet", "grid": 4, "kernel_size": 5}
    return NoiseMaskPretraining(**small | {"sigma": 1.5, "num_classes": None} | options)


def _fit_mask(material: Material, folder: Path, options: Options, *callbacks: Callback, **more: Any) -> Fit:
    module = _mask(options)
    update = ReinforceUpdate("none" if module.masks_per_image == 1 else "leave_one_out")
    chosen = update if module.learns_from_rewards else EnvironmentUpdate()
    return fit(folder, module, material.npz, chosen, *callbacks, **more)


def _mask_weights(epochs: int, material: Material, folder: Path, options: Options) -> Any:
    return weights_of(_fit_mask(material, folder, options, epochs=epochs).module)


def _mask_metrics(material: Material, folder: Path, options: Options) -> Any:
    metrics = _fit_mask(material, folder, options, limit_val_batches=1.0).metrics
    return {name: value for name, value in metrics.items() if not name.startswith("timing/")}


def _mask_shapes(material: Material, folder: Path, options: Options) -> Any:
    """Networks, actions, and what the first convolutions are given."""
    module = _mask(options | ({} if "num_classes" in options else {"num_classes": 3}))
    found: dict[str, Any] = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for name in ("policy.trunk", "network"):
        module.get_submodule(name).register_forward_pre_hook(partial(_note, found, name))
    rollout = module.reward(module.act((torch.randn(4, 3, 28, 28), torch.arange(4) % 2)))
    return found | {"actions": rollout.actions.shape}


def _note(found: dict[str, Any], name: str, layer: nn.Module, arguments: tuple[Tensor]) -> None:
    (images,) = arguments
    found[f"into {name}"] = (tuple(images.shape), images.is_contiguous(memory_format=torch.channels_last))


def _iterations(material: Material, folder: Path, options: Options) -> Any:
    return _fit_mask(material, folder, options).module.iteration


_SGD: Callable[..., Any] = partial(torch.optim.SGD, lr=0.3)
_DROP: Callable[..., Any] = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.01)
_BALANCE = ClassBalance("inverse")

_NOISE_MASK = Knobs(
    {
        "weights": partial(_mask_weights, 1),
        "later": partial(_mask_weights, 2),
        "metrics": _mask_metrics,
        "shapes": _mask_shapes,
        "iterations": _iterations,
    },
    {
        "backbone": Turn("test_efficientnet", "shapes"),
        "policy_backbone": Turn("test_efficientnet", "shapes"),
        "num_classes": Turn(4, "shapes"),
        "grid": Turn(2, "shapes"),
        "kernel_size": Turn(3, "weights"),
        "sigma": Turn(0.7, "weights"),
        "masks_per_image": Turn(3, "shapes"),
        "objective": Turn("pathwise", "weights"),
        "sign": Turn("adversarial", "weights"),
        "divide_lr_factor": Turn(True, "weights", {"objective": "official"}),
        "regulariser": Turn("entropy", "weights"),
        "regulariser_coef": Turn(0.5, "weights", {"regulariser": "kl_to_average"}),
        "mask_normalisation": Turn("unit_mean", "weights"),
        "decay": Turn(0.5, "weights"),
        "average": Turn(0.5, "weights"),
        "policy_image_size": Turn(16, "shapes"),
        "channels_last": Turn(True, "shapes"),
        "masked_evaluation": Turn(False, "metrics"),
        "eval_seed": Turn(1, "metrics"),
        "seed": Turn(1, "weights"),
        "label_kind": Turn("ordinal", "metrics"),
        "class_balance": Turn(_BALANCE, "weights"),
        "policy_optimizer": Turn(_SGD, "weights"),
        "policy_scheduler": Turn(_DROP, "later"),
        "classifier_optimizer": Turn(_SGD, "weights"),
        "classifier_scheduler": Turn(_DROP, "later"),
        "max_iterations": Turn(1, "iterations"),
    },
)


def _classifier(options: Options) -> ImageClassifier:
    small: Options = {"backbone": "test_resnet"}
    return ImageClassifier(**small | options)


def _classifier_weights(epochs: int, material: Material, folder: Path, options: Options) -> Any:
    return weights_of(fit(folder, _classifier(options), material.npz, epochs=epochs).module)


def _classifier_metrics(material: Material, folder: Path, options: Options) -> Any:
    return fit(folder, _classifier(options), material.npz, limit_val_batches=1.0).metrics


def _classifier_shapes(material: Material, folder: Path, options: Options) -> Any:
    module = _classifier({"num_classes": 3} | options)
    found: dict[str, Any] = {name: (tuple(p.shape), p.requires_grad) for name, p in module.named_parameters()}
    module.classifier.register_forward_pre_hook(partial(_note, found, "network"))
    module(torch.randn(2, 3, 28, 28))
    return found


_CLASSIFIER = Knobs(
    {
        "weights": partial(_classifier_weights, 1),
        "later": partial(_classifier_weights, 2),
        "metrics": _classifier_metrics,
        "shapes": _classifier_shapes,
    },
    {
        "backbone": Turn("test_efficientnet", "shapes"),
        "num_classes": Turn(4, "shapes"),
        "weights": Turn(Of("weights"), "weights"),
        "reset_head": Turn(True, "weights", {"weights": Of("weights")}),
        "trainable": Turn("head", "shapes"),
        "channels_last": Turn(True, "shapes"),
        "label_kind": Turn("ordinal", "metrics"),
        "class_balance": Turn(_BALANCE, "weights"),
        "optimizer": Turn(_SGD, "weights"),
        "scheduler": Turn(_DROP, "later"),
    },
)


def _balanced(material: Material, folder: Path, options: Options) -> Any:
    module = _classifier({"class_balance": ClassBalance(**options)})
    return weights_of(fit(folder, module, material.npz).module)


def _average(material: Material, folder: Path, options: Options) -> Any:
    return weights_of(fit(folder, _classifier({}), material.npz, LastEpochsAverage(**options), epochs=3).module)


def _export(material: Material, folder: Path, options: Options) -> Any:
    if "folder" in options:
        options["folder"] = str(folder / options["folder"])
    fit(folder, _classifier({}), material.npz, ModelExport(**options))
    return sorted(files_of(folder))


def _report(material: Material, folder: Path, options: Options) -> Any:
    if "folder" in options:
        options["folder"] = str(folder / options["folder"])
    module, data = _classifier({"num_classes": 3}), MedMNIST(str(material.npz))
    trainer = Trainer(callbacks=[ClassificationReport(**options)], default_root_dir=folder, **QUIET)
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    return sorted(files_of(folder))


def _gallery(material: Material, folder: Path, options: Options) -> Any:
    from PIL import Image

    _fit_mask(material, folder, {}, MaskGallery(**options))
    return {path.name: Image.open(path).height for path in (folder / "masks").iterdir()}


def _diagnostics(material: Material, folder: Path, options: Options) -> Any:
    seen = _fit_mask(material, folder, {}, MaskDiagnostics(**options), limit_val_batches=1.0)
    mine = ("val/reward_", "val/learned_", "val/gradient")
    return {"said": seen.said, "metrics": {name: v for name, v in seen.metrics.items() if name.startswith(mine)}}


def _clipped(material: Material, folder: Path, options: Options) -> Any:
    module = _mask({"objective": "random"})
    return weights_of(fit(folder, module, material.npz, EnvironmentUpdate(**options)).module)


PICTURES: dict[type, Knobs] = {
    NoiseMaskPretraining: _NOISE_MASK,
    ImageClassifier: _CLASSIFIER,
    ClassBalance: Knobs(
        {"weights": _balanced},
        {
            "weighting": Turn("effective", "weights"),
            "beta": Turn(0.5, "weights", {"weighting": "effective"}),
            "logit_adjustment": Turn(1.0, "weights"),
        },
        {"weighting": "inverse"},
    ),
    LastEpochsAverage: Knobs({"weights": _average}, {"epochs": Turn(1, "weights")}),
    ModelExport: Knobs({"files": _export}, {"folder": Turn("elsewhere", "files")}),
    ClassificationReport: Knobs(
        {"files": _report}, {"folder": Turn("elsewhere", "files"), "validation": Turn(True, "files")}
    ),
    MaskGallery: Knobs(
        {"pictures": _gallery},
        {"every_n_iterations": Turn(1, "pictures"), "images": Turn(2, "pictures")},
        {"images": 1},
    ),
    MaskDiagnostics: Knobs(
        {"run": _diagnostics},
        {
            "images": Turn(12, "run/metrics"),
            "draws": Turn(2, "run/metrics"),
            "gradient_draws": Turn(6, "run/metrics"),
            "gradient_images": Turn(4, "run/metrics"),
            "seed": Turn(1, "run/metrics"),
            "z_threshold": Turn(1e-6, "run/said"),
        },
        {"images": 6, "draws": 1, "gradient_draws": 4, "gradient_images": 2},
    ),
    EnvironmentUpdate: Knobs({"weights": _clipped}, {"max_grad_norm": Turn(0.01, "weights")}),
}
