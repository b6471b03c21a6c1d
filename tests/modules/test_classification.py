"""The numbers of an evaluation: by hand, against loops over single images, and where torchmetrics alone would err."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tamis.modules import ImageClassifier
from tamis.modules.classification import STAGES, classification_metrics
from tamis.modules.image_metrics import one_vs_rest_auc, score_classes, score_group

#: Five images of classes 0 and 1; class 2 is neither a label nor a prediction, class 3 is predicted and no label.
LABELS = torch.tensor([0, 0, 0, 1, 1])
PROBABILITIES = torch.tensor(
    [
        [0.7, 0.1, 0.1, 0.1],  # right
        [0.4, 0.5, 0.05, 0.05],  # taken for 1
        [0.3, 0.2, 0.1, 0.4],  # taken for 3
        [0.2, 0.6, 0.1, 0.1],  # right
        [0.5, 0.3, 0.1, 0.1],  # taken for 0
    ]
)
BY_HAND = {
    "accuracy": 2 / 5,
    "top5_accuracy": 1.0,  # of four classes
    "balanced_accuracy": (1 / 3 + 1 / 2) / 2,
    "macro_precision": (1 / 2 + 1 / 2 + 0) / 3,
    "macro_recall": (1 / 3 + 1 / 2 + 0) / 3,
    "macro_f1": (2 / 5 + 2 / 4 + 0) / 3,
    # Class 0: .7 above .2 and .5, .4 and .3 above .2, of 6 pairs. Class 1: .6 above .1, .5 and .2; .3 above .1 and .2.
    "macro_auc": (4 / 6 + 5 / 6) / 2,
    "cross_entropy": -(math.log(0.7) + math.log(0.4) + math.log(0.3) + math.log(0.6) + math.log(0.3)) / 5,
}


def measured(logits: Tensor, labels: Tensor, batch_size: int = 100) -> dict[str, float]:
    collection = classification_metrics(logits.shape[1])["test_metrics"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a class that does not occur is no reason for one
        for batch in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
            collection.update(*batch)  # type: ignore[operator]
        values = collection.compute()  # type: ignore[operator]
    return {name.removeprefix("test/"): float(value) for name, value in values.items()}


def slow(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The same by loops over images and pairs of images."""
    rows, truth = logits.tolist(), labels.tolist()
    ranked = [sorted(range(len(row)), key=lambda label, row=row: -row[label]) for row in rows]  # type: ignore[misc]
    taken = [order[0] for order in ranked]
    precision, recall, balanced, f1, auc = [], [], [], [], []
    for label in range(logits.shape[1]):
        right = sum(a == b == label for a, b in zip(truth, taken, strict=True))
        if label in truth:
            balanced.append(right / truth.count(label))
        if label in truth or label in taken:
            precision.append(right / max(taken.count(label), 1))
            recall.append(right / max(truth.count(label), 1))
            f1.append(2 * right / (truth.count(label) + taken.count(label)))
        score = [math.exp(row[label]) / sum(map(math.exp, row)) for row in rows]
        own = [value for value, is_label in zip(score, truth, strict=True) if is_label == label]
        others = [value for value, is_label in zip(score, truth, strict=True) if is_label != label]
        pairs = [0.5 if math.isclose(a, b, rel_tol=1e-9) else float(a > b) for a in own for b in others]
        auc += [sum(pairs) / len(pairs)] if pairs else []
    return {
        "accuracy": sum(a == b for a, b in zip(truth, taken, strict=True)) / len(truth),
        "top5_accuracy": sum(a in order[:5] for a, order in zip(truth, ranked, strict=True)) / len(truth),
        "balanced_accuracy": sum(balanced) / len(balanced),
        "macro_precision": sum(precision) / len(precision),
        "macro_recall": sum(recall) / len(recall),
        "macro_f1": sum(f1) / len(f1),
        "macro_auc": sum(auc) / len(auc),
        "cross_entropy": -sum(row[a] - math.log(sum(map(math.exp, row))) for row, a in zip(rows, truth, strict=True))
        / len(rows),
    }


def test_by_hand() -> None:
    assert measured(PROBABILITIES.log(), LABELS) == pytest.approx(BY_HAND)


@pytest.mark.parametrize(("classes", "present"), [(2, 2), (3, 3), (6, 6), (9, 4), (12, 12)])
def test_against_loops_over_images(classes: int, present: int) -> None:
    logits, labels = torch.randn(60, classes), torch.randint(0, present, (60,))
    logits[torch.arange(60), labels] += 1
    assert measured(logits, labels, batch_size=7) == pytest.approx(slow(logits, labels), rel=1e-5)


def test_order_and_names_of_the_classes_do_not_matter() -> None:
    logits, labels = torch.randn(40, 7), torch.randint(0, 7, (40,))
    rows, names = torch.randperm(40), torch.randperm(7)
    expected = measured(logits, labels)
    assert measured(logits[rows], labels[rows], batch_size=9) == pytest.approx(expected)
    assert measured(logits[:, names], names.argsort()[labels]) == pytest.approx(expected)


def test_metrics_that_agree_in_the_first_batch_stay_apart() -> None:
    """torchmetrics would keep one count for all that are equal there."""
    first = torch.eye(7)
    second = first + 2 * first.roll(1, dims=1)  # the label comes second
    found = measured(torch.cat([first, second]), torch.arange(7).repeat(2), batch_size=7)
    assert found["accuracy"] == pytest.approx(1 / 2)
    assert found["top5_accuracy"] == 1


def test_ties_count_half() -> None:
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    # Class 0: one of its images ties with the other class's one, one lies below it: (.5 + 0 + 1 + .5) / 4.
    assert one_vs_rest_auc(logits, torch.tensor([0, 1, 0, 1])).tolist() == [0.5, 0.5]
    assert one_vs_rest_auc(torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])).tolist() == [0.5] * 3


def test_logits_that_look_like_probabilities_are_logits() -> None:
    """torchmetrics takes what lies in [0, 1] for probabilities, by which the first image's .9 would be above .5."""
    logits = torch.tensor([[0.9, 0.9], [0.5, 0.0]])  # probabilities of class 0: .5 and .62
    assert one_vs_rest_auc(logits, torch.tensor([1, 0])).tolist() == [1, 1]


def test_classes_without_positives_or_negatives_have_no_auc() -> None:
    auc = one_vs_rest_auc(PROBABILITIES.log(), LABELS)
    assert auc[:2].tolist() == pytest.approx([4 / 6, 5 / 6])
    assert auc[2:].isnan().all()
    assert one_vs_rest_auc(torch.randn(4, 3), torch.ones(4, dtype=torch.long)).isnan().all()
    assert math.isnan(measured(torch.randn(4, 3), torch.ones(4, dtype=torch.long))["macro_auc"])


def test_a_network_that_diverged_has_no_auc() -> None:
    logits = torch.randn(6, 3)
    logits[2, 1] = torch.nan
    found = measured(logits, torch.arange(6) % 3)
    assert math.isnan(found["macro_auc"])
    assert math.isnan(found["cross_entropy"])


def test_half_precision_counts_as_its_values_do() -> None:
    logits, labels = torch.randn(30, 8).bfloat16(), torch.randint(0, 8, (30,))
    assert measured(logits, labels) == pytest.approx(measured(logits.float(), labels))


def test_classes_by_hand() -> None:
    scores = score_classes(PROBABILITIES.log(), LABELS)
    assert scores.support.tolist() == [3, 2, 0, 0]
    assert scores.predicted.tolist() == [2, 2, 0, 1]
    assert scores.precision.tolist() == pytest.approx([1 / 2, 1 / 2, 0, 0])
    assert scores.recall.tolist() == pytest.approx([1 / 3, 1 / 2, 0, 0])
    assert scores.f1.tolist() == pytest.approx([2 / 5, 1 / 2, 0, 0])
    assert scores.counted.tolist() == [True, True, False, True]


def test_a_group_of_all_classes_is_the_whole() -> None:
    assert score_group(PROBABILITIES.log(), LABELS, range(4)) == pytest.approx(BY_HAND)
    logits, labels = torch.randn(50, 8), torch.randint(0, 5, (50,))
    assert score_group(logits, labels, range(8)) == pytest.approx(measured(logits, labels))


def test_a_group_by_hand() -> None:
    """Class 0 alone: one of three right, one taken for 1 and one for 3, neither of which is a class of the group."""
    found = score_group(PROBABILITIES.log(), LABELS, [0, 2])
    expected = {"accuracy": 1 / 3, "top5_accuracy": 1.0, "balanced_accuracy": 1 / 3, "macro_recall": 1 / 3}
    expected |= {"macro_precision": 1.0, "macro_f1": 2 / 4}
    expected["cross_entropy"] = -(math.log(0.7) + math.log(0.4) + math.log(0.3)) / 3
    assert math.isnan(found.pop("macro_auc"))  # no image of another class
    assert found == pytest.approx(expected)


def test_a_group_is_judged_among_all_classes() -> None:
    """Two of four images are right; the best class within the group would be right for all."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 2.5], [1.0, 2.0, 0.0], [1.0, 2.0, 2.5]])
    found = score_group(torch.cat([logits, torch.randn(5, 3)]), torch.tensor([0, 0, 1, 1] + [2] * 5), [1, 0])
    # Both classes: precision 1, recall 1/2, F1 2/3. Probabilities of class 0: .67 and .33 against .24 and .12.
    values = [found[name] for name in ("accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_auc")]
    assert values == pytest.approx([1 / 2, 1, 1 / 2, 2 / 3, 1])


def test_one_class_leaves_nothing_to_tell_apart() -> None:
    class OneClass(LightningDataModule):
        num_classes = 1

        def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
            return DataLoader(TensorDataset(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)))

    with pytest.raises(ValueError, match="training split of OneClass says 1 class, which leaves nothing to tell apart"):
        quiet_trainer().fit(ImageClassifier("test_resnet"), OneClass())
    with pytest.raises(ValueError, match="num_classes says 1 class"):
        ImageClassifier("test_resnet", num_classes=1)


@pytest.mark.parametrize("stage", STAGES)
def test_images_that_a_sampler_repeats_count_once(stage: str) -> None:
    """Nine images on two ranks: the second has 1, 3, 5, 7 and, to make the shares even, 0 again."""
    images, labels = torch.randn(9, 3, 32, 32), torch.randint(0, 3, (9,))
    dataset = TensorDataset(images, labels)
    module = ImageClassifier("test_resnet", num_classes=3).eval()
    losses = torch.nn.functional.cross_entropy(module(images), labels, reduction="none").detach()
    for rank, own in ((0, [0, 2, 4, 6, 8]), (1, [1, 3, 5, 7])):
        for batch_size in (2, 3, 10):  # the repeated image comes alone, with others, with all
            sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(dataset, 2, rank, shuffle=False)
            loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
            evaluate = quiet_trainer().validate if stage == "val" else quiet_trainer().test
            (found,) = evaluate(module, [loader] if batch_size == 3 else loader, verbose=False)
            assert found[f"{stage}/cross_entropy"] == pytest.approx(float(losses[own].mean()), rel=1e-4)


def quiet_trainer() -> Trainer:
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
