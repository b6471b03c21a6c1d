"""What a classifier's evaluation leaves behind: the scores of every class and group of classes, and the confusions."""

from __future__ import annotations

from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..modules import ImageClassifier, NoiseMaskPretraining
from ..modules.classification import evaluated_images
from ..run_dir.writing import name_the_file, tolerate_full_disk, write_whole
from .classification_tables import GroupScores, groups_table, logged_metrics, per_class_table, score_groups
from .confusion_picture import confusion_figure
from .pictures import log_picture, png

PER_CLASS, GROUPS, PICTURE = "per_class.csv", "groups.csv", "confusion.png"


class ClassificationReport(Callback):
    """Writes ``per_class.csv``, ``groups.csv`` and ``confusion.png`` into ``<run directory>/test``.

    ``per_class.csv`` has precision, recall, F1 and one-vs-rest AUC of every class. ``groups.csv`` has what is logged
    under ``test/`` for the whole set, and the same for the images of each group of classes that the datamodule tells of
    (its ``class_groups``, such as modality and anatomy); the groups' numbers are logged, too, as
    ``test/modality_CT/accuracy``. ``confusion.png`` is also shown in TensorBoard. ``docs/metrics.md`` says what the
    numbers mean where a class is missing. Where an image has several labels, ``per_class.csv`` has a row a label, and
    the others, which ask for one class an image, are not written.

    Args:
        folder: where ``test`` goes; ``None`` is the run directory. An earlier test's files there are an error.
        validation: report every validation, too, into ``val``, where the latest one stays.
    """

    def __init__(self, folder: str | None = None, validation: bool = False) -> None:
        self.folder, self.validation = folder, validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that is no classifier, and to overwrite, before any time is spent."""
        if not isinstance(pl_module, ImageClassifier | NoiseMaskPretraining):
            raise MisconfigurationException(
                "ClassificationReport reports on ImageClassifier and NoiseMaskPretraining, "
                f"not on {type(pl_module).__name__}; remove it"
            )
        folder = self._folder(trainer, "test")
        found = [name for name in (PER_CLASS, GROUPS, PICTURE) if (folder / name).exists()]
        if stage == "test" and found:
            raise FileExistsError(f"{folder / found[0]} exists; choose another run_dir or folder, or remove it")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report on the test split."""
        self._report(trainer, pl_module, "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report on the validation split, if asked to."""
        if self.validation and not trainer.sanity_checking:
            self._report(trainer, pl_module, "val")

    def _report(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if not isinstance(module, ImageClassifier | NoiseMaskPretraining):  # which setup has refused
            return
        logits, labels = evaluated_images(module.metrics, stage)  # every rank takes part
        if trainer.is_global_zero:
            self._write(trainer, logits.cpu(), labels.cpu(), stage, getattr(module, "iteration", _step(trainer)))

    def _write(self, trainer: Trainer, logits: Tensor, labels: Tensor, stage: str, step: int) -> None:
        datamodule = getattr(trainer, "datamodule", None)
        names = getattr(datamodule, "class_names", None) or [str(label) for label in range(logits.shape[1])]
        folder = self._folder(trainer, stage)
        files: dict[str, str | bytes] = {PER_CLASS: per_class_table(logits, labels, names)}
        if labels.dim() == 1:
            ways: dict[str, list[str]] = getattr(datamodule, "class_groups", {})
            groups = score_groups(logits, labels, ways)
            figure = confusion_figure(_count(logits, labels), names, ways.get("anatomy"), _title(stage, groups[0]))
            picture = png(figure)
            files |= {GROUPS: groups_table(groups), PICTURE: picture}
            log_picture(trainer, f"{stage}/confusion", picture, step)
            for logger in trainer.loggers:  # past Lightning, which would print them all, more than a hundred
                logger.log_metrics(logged_metrics(groups, stage), step=step)
        if stage == "test":
            room = name_the_file(folder, "The scores are in the log. Make room and run the test again.")
        else:
            room = tolerate_full_disk(folder, "this validation's report is left out.")
        with room:
            for name, content in files.items():
                write_whole(folder / name, content)
            rank_zero_info(f"Report on the {stage} split written to {folder}")

    def _folder(self, trainer: Trainer, stage: str) -> Path:
        return Path(self.folder or trainer.default_root_dir) / stage


def _step(trainer: Trainer) -> int:
    """Lightning's x-axis: a validation during training belongs to the batch before it, counted from 0."""
    return trainer.global_step - 1 if trainer.state.fn == TrainerFn.FITTING else trainer.global_step


def _title(stage: str, whole: GroupScores) -> str:
    measured = f"accuracy {whole.metrics['accuracy']:.3f}, balanced {whole.metrics['balanced_accuracy']:.3f}"
    return f"{stage} split, {whole.images} images: {measured}"


def _count(logits: Tensor, labels: Tensor) -> Tensor:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(logits, labels, logits.shape[1])
