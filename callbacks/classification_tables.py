"""The tables of a classification report: a row a class, and a row a group of classes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import NamedTuple

from torch import Tensor

from ..modules.image_metrics import score_classes, score_group
from ..modules.label_metrics import score_labels

#: The group of every class, by the name of its way and its own.
WHOLE = ("all", "all")


class GroupScores(NamedTuple):
    """What was measured over the images of some classes.

    Args:
        way: of grouping, such as ``modality``.
        name: of the group, such as ``CT``.
        images: of its classes.
        classes: of them that have images.
        metrics: see `score_group`; empty without images.
    """

    way: str
    name: str
    images: int
    classes: int
    metrics: dict[str, float]


def score_groups(logits: Tensor, labels: Tensor, ways: Mapping[str, Sequence[str]]) -> list[GroupScores]:
    """The whole set, then each group in the order of its first class.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
        ways: of grouping the classes, each with the group of every class.
    """
    support = labels.bincount(minlength=logits.shape[1])
    found = []
    for way, name, classes in _groups(logits.shape[1], ways):
        images = int(support[classes].sum())
        metrics = score_group(logits, labels, classes) if images else {}
        found.append(GroupScores(way, name, images, int((support[classes] > 0).sum()), metrics))
    return found


def logged_metrics(groups: Sequence[GroupScores], stage: str) -> dict[str, float]:
    """What goes to the loggers, as ``test/modality_CT/accuracy``; the whole set is logged by the module."""
    return {
        f"{stage}/{group.way}_{group.name.replace('/', '_')}/{key}": value
        for group in groups
        if (group.way, group.name) != WHOLE
        for key, value in group.metrics.items()
        if math.isfinite(value)
    }


def per_class_table(logits: Tensor, labels: Tensor, names: Sequence[str]) -> str:
    """CSV with a row a class, or a label. Cells are empty where there is no number: see `ClassScores`."""
    scores = score_classes(logits, labels) if labels.dim() == 1 else score_labels(logits, labels)
    rows: list[list[object]] = [["class", "support", "precision", "recall", "f1", "auc"]]
    for label, name in enumerate(names):
        measured = [scores.precision, scores.recall, scores.f1]
        cells = [_cell(float(values[label])) if scores.counted[label] else "" for values in measured]
        rows.append([name, int(scores.support[label]), *cells, _cell(float(scores.auc[label]))])
    return _as_csv(rows)


def groups_table(groups: Sequence[GroupScores]) -> str:
    """CSV with a row a group, the whole set first."""
    keys = list(next((group.metrics for group in groups if group.metrics), {}))
    rows: list[list[object]] = [["way", "group", "images", "classes", *keys]]
    for group in groups:
        cells = [_cell(group.metrics.get(key, math.nan)) for key in keys]
        rows.append([group.way, group.name, group.images, group.classes, *cells])
    return _as_csv(rows)


def _groups(classes: int, ways: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, list[int]]]:
    yield *WHOLE, list(range(classes))
    for way, group_of_class in ways.items():
        for name in dict.fromkeys(group_of_class):
            yield way, name, [label for label, group in enumerate(group_of_class) if group == name]


def _cell(value: float) -> str:
    """Six digits, which do not tell one process from several; nothing for NaN."""
    return f"{value:.6f}" if math.isfinite(value) else ""


def _as_csv(rows: Sequence[Sequence[object]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
