"""Images with several labels, and classes with an order: losses and metrics by hand and by loops, in both modules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import EnvironmentUpdate, MaskDiagnostics, ReinforceUpdate
from tamis.functional import LabelKind
from tamis.modules import ImageClassifier, NoiseMaskPretraining
from tamis.modules.classification import classification_metrics
from tamis.modules.label_kinds import per_image_loss, probabilities
from tamis.modules.label_metrics import of_each_label

from .small.masks import noise_mask, quiet_trainer

#: Four images of three labels; nobody has the third.
LABELS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]).float()
PROBABILITIES = torch.tensor([[0.9, 0.6, 0.1], [0.4, 0.7, 0.2], [0.3, 0.2, 0.1], [0.6, 0.1, 0.3]])
LOGITS = PROBABILITIES.logit()
BY_HAND = {
    # Wrong: label 0 of images 1 and 3, label 1 of images 0 and 2.
    "accuracy": 8 / 12,
    # Label 0: one true positive, one false positive, one missed; label 1 the same; label 2 nothing at all, which is 0.
    "macro_f1": (1 / 2 + 1 / 2 + 0) / 3,
    # Label 0: .9 above .3 and .6, .4 above .3. Label 1: .7 above .6 and .1, .2 above .1. Label 2 has no positives.
    "macro_auc": (3 / 4 + 3 / 4) / 2,
    # Label 0 in order: right, wrong, right, wrong: (1 + 2/3) / 2. Label 1: right, wrong, right, wrong, the same.
    "mean_average_precision": 5 / 6,
    "cross_entropy": -sum(
        map(math.log, (0.9, 0.4, 0.9, 0.4, 0.7, 0.8, 0.7, 0.2, 0.9, 0.4, 0.9, 0.7))  # of the truth, image by image
    )
    / 12,
}


def measured(logits: Tensor, labels: Tensor, kind: LabelKind, batch_size: int = 100) -> dict[str, float]:
    collection = classification_metrics(logits.shape[1], kind)["val_metrics"]
    for batch in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        collection.update(*batch)  # type: ignore[operator]
    return {name.removeprefix("val/"): float(value) for name, value in collection.compute().items()}  # type: ignore[operator]


def slow(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Several labels, by loops."""
    right, losses, f1, auc, precision = [], [], [], [], []
    for column in range(logits.shape[1]):
        scores, truth = logits[:, column].tolist(), labels[:, column].tolist()
        pairs = list(zip(scores, truth, strict=True))
        right += [(score > 0) == bool(true) for score, true in pairs]
        losses += [math.log1p(math.exp(-score if true else score)) for score, true in pairs]
        hits = sum(score > 0 and true == 1 for score, true in pairs)
        marked = sum(score > 0 for score in scores) + sum(truth)
        f1.append(2 * hits / marked if marked else 0.0)
        positives, negatives = ([s for s, t in pairs if t == value] for value in (1, 0))
        if positives and negatives:
            above = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
            auc.append(sum(above) / len(above))
            at = [(sum(p >= s for p in positives), sum(other >= s for other in scores)) for s in positives]
            precision.append(sum(own / everyone for own, everyone in at) / len(at))
    names = ("accuracy", "cross_entropy", "macro_f1", "macro_auc", "mean_average_precision")
    return {
        name: sum(values) / len(values) for name, values in zip(names, (right, losses, f1, auc, precision), strict=True)
    }


def test_several_labels_by_hand() -> None:
    assert measured(LOGITS, LABELS, "multi") == pytest.approx(BY_HAND)
    assert measured(LOGITS, LABELS.long(), "multi", batch_size=1) == pytest.approx(BY_HAND)


@pytest.mark.parametrize(("labels", "present"), [(2, 2), (5, 5), (14, 9)])
def test_several_labels_against_loops(labels: int, present: int) -> None:
    truth = torch.zeros(50, labels)
    truth[:, :present] = (torch.rand(50, present) < 0.3).float()
    logits = (torch.randn(50, labels) + truth).mul(2).round() / 2  # with ties
    logits[logits == 0] = -0.25
    assert measured(logits, truth, "multi", batch_size=7) == pytest.approx(slow(logits, truth), rel=1e-5)


def test_order_of_images_and_labels_does_not_matter() -> None:
    logits, truth = torch.randn(30, 6), (torch.rand(30, 6) < 0.4).float()
    rows, names = torch.randperm(30), torch.randperm(6)
    found = measured(logits[rows][:, names], truth[rows][:, names], "multi", batch_size=9)
    assert found == pytest.approx(measured(logits, truth, "multi"))


def test_all_zeros_look_accurate_and_have_no_skill() -> None:
    """Why ChestMNIST is judged by its AUC: 5 % of its labels are positive."""
    truth = torch.zeros(100, 14)
    truth[:5] = 1
    found = measured(torch.full((100, 14), -9.0), truth, "multi")
    assert found["accuracy"] == pytest.approx(0.95)
    assert found["macro_auc"] == 0.5
    assert found["macro_f1"] == 0


def test_logits_that_look_like_probabilities_are_logits() -> None:
    """torchmetrics takes what lies in [0, 1] for probabilities: .3 would be below the threshold."""
    logits, truth = torch.full((3, 2), 0.3), torch.ones(3, 2)
    assert measured(logits, truth, "multi")["accuracy"] == 1
    assert measured(logits, truth, "multi")["macro_f1"] == 1


def test_large_logits_are_not_tied() -> None:
    """The sigmoid of both is 1 in float32."""
    from torchmetrics.functional.classification import binary_auroc

    assert of_each_label(binary_auroc, torch.tensor([[40.0], [50.0]]), torch.tensor([[0], [1]])).tolist() == [1]


def test_labels_that_rank_nothing_have_no_number() -> None:
    found = measured(LOGITS, torch.ones(4, 3), "multi")
    assert math.isnan(found["macro_auc"])
    assert math.isnan(found["mean_average_precision"])
    broken = LOGITS.clone()
    broken[0, 2] = torch.inf
    assert math.isnan(measured(broken, LABELS, "multi")["macro_auc"])


def test_ordinal_classes_by_hand() -> None:
    """True 0, 1, 2, 2 taken for 0, 2, 2, 0: distances 0, 1, 0, 2."""
    logits = F.one_hot(torch.tensor([0, 2, 2, 0]), 3).float()
    found = measured(logits, torch.tensor([0, 1, 2, 2]), "ordinal", batch_size=3)
    assert found["mean_absolute_error"] == pytest.approx(3 / 4)
    # Squared distances: 0 + 1 + 0 + 4 = 5 seen. By chance: rows have 1, 1, 2 and columns 2, 0, 2 of 4 images, so
    # sum of n_i m_j (i - j)^2 / 4 = (1 * 2 * 4 + 1 * (2 * 1 + 2 * 1) + 2 * 2 * 4) / 4 = 28 / 4 = 7.
    assert found["quadratic_kappa"] == pytest.approx(1 - 5 / 7)


def test_ordinal_classes_are_measured_as_classes_too() -> None:
    logits, labels = torch.randn(40, 5), torch.randint(0, 5, (40,))
    ordinal, single = measured(logits, labels, "ordinal"), measured(logits, labels, "single")
    assert {name: ordinal[name] for name in single} == single
    assert set(ordinal) - set(single) == {"quadratic_kappa", "mean_absolute_error"}
    taken = logits.argmax(dim=1)
    distances = [abs(a - b) for a, b in zip(taken.tolist(), labels.tolist(), strict=True)]
    assert ordinal["mean_absolute_error"] == pytest.approx(sum(distances) / 40)
    by_chance = sum((a - b) ** 2 for a in taken.tolist() for b in labels.tolist()) / 40
    assert ordinal["quadratic_kappa"] == pytest.approx(1 - sum(d**2 for d in distances) / by_chance, abs=1e-6)


def test_what_an_image_costs() -> None:
    each = per_image_loss(LOGITS, LABELS, "multi")
    # Image 0: right with .9, .4 and .9.
    assert float(each[0]) == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.9)) / 3)
    assert float(each.mean()) == pytest.approx(BY_HAND["cross_entropy"])
    classes = torch.tensor([0, 2, 1, 1])
    plain = F.cross_entropy(LOGITS, classes, reduction="none")
    for kind in ("single", "ordinal"):
        torch.testing.assert_close(per_image_loss(LOGITS, classes, kind), plain, atol=0, rtol=0)


def test_labels_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kind single are one number an image, got \(4, 3\); set label_kind"):
        per_image_loss(LOGITS, LABELS, "single")
    with pytest.raises(ValueError, match=r"0 or 1 for each of 3 labels, got \(4,\) for 4 images; set label_kind"):
        per_image_loss(LOGITS, torch.arange(4), "multi")
    with pytest.raises(ValueError, match="labels of kind single"):
        ImageClassifier("test_resnet", num_classes=3).loss.mean(LOGITS, LABELS)


def test_probabilities() -> None:
    torch.testing.assert_close(probabilities(LOGITS, "multi"), PROBABILITIES)
    torch.testing.assert_close(probabilities(LOGITS, "ordinal").sum(dim=1), torch.ones(4))


class Findings(LightningDataModule):
    """Brightness of the left and of the right half are two labels; a third is never there."""

    num_classes = 3
    label_kind = "multi"

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        labels = torch.tensor([[i % 2, i // 2 % 2, 0] for i in range(16)]).float()
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
        images[..., :16] += labels[:, 0].view(-1, 1, 1, 1) * 2 - 1
        images[..., 16:] += labels[:, 1].view(-1, 1, 1, 1) * 2 - 1
        return DataLoader(TensorDataset(images, labels), batch_size=8)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


class Grades(Findings):
    label_kind = "ordinal"

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)  # type: ignore[arg-type]


def test_a_classifier_learns_several_labels_and_its_checkpoint_knows_them(tmp_path: Path) -> None:
    module, run = ImageClassifier("test_resnet", optimizer=adam), quiet_trainer(steps=12)
    run.fit(module, Findings())
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    assert found["val/macro_auc"] == 1
    assert found["val/accuracy"] > 0.9
    assert {name for name in found if name.startswith("val/")} == {f"val/{name}" for name in BY_HAND}
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt").eval()
    images = next(iter(Findings().loader()))[0]
    torch.testing.assert_close(again.predict_step((images, images), 0), module.eval()(images).sigmoid())
    module.export(tmp_path)
    assert torch.load(tmp_path / "classifier.pt", weights_only=True)["label_kind"] == "multi"


def test_the_step_is_the_mean_of_the_binary_cross_entropies() -> None:
    module = ImageClassifier("test_resnet", num_classes=3, label_kind="multi").eval()
    images, labels = next(iter(Findings().loader()))
    logits = module(images).detach()
    slow = [
        float(F.binary_cross_entropy_with_logits(logit, label)) for logit, label in zip(logits, labels, strict=True)
    ]
    assert float(module.loss.mean(logits, labels)) == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def test_ordinal_metrics_come_with_ordinal_data() -> None:
    run = quiet_trainer(steps=1)
    (found,) = run.test(ImageClassifier("test_resnet"), Grades(), verbose=False)
    assert {"test/quadratic_kappa", "test/mean_absolute_error", "test/top5_accuracy"} <= set(found)
    (found,) = run.test(ImageClassifier("test_resnet", label_kind="single"), Grades(), verbose=False)
    assert "test/quadratic_kappa" not in found


def test_the_network_given_its_classes_before_the_data_measures_what_the_data_has() -> None:
    module = ImageClassifier("test_resnet", num_classes=3)
    before = module.classifier
    (found,) = quiet_trainer(steps=1).validate(module, Findings(), verbose=False)
    assert module.classifier is before
    assert "val/mean_average_precision" in found


@pytest.mark.parametrize("objective", ["reinforce", "official", "pathwise", "random", "none"])
def test_a_noise_mask_learns_from_several_labels(objective: str) -> None:
    module = noise_mask(num_classes=None, objective=objective)
    update = ReinforceUpdate() if objective == "reinforce" else EnvironmentUpdate()
    run = quiet_trainer(update, steps=1)
    run.fit(module, Findings())
    found = set(run.callback_metrics)
    assert {"val/mean_average_precision", "train/cross_entropy"} <= found
    assert not any("top5" in name or "balanced" in name for name in found)
    assert ("val/sampled_mask_cross_entropy" in found) == (objective != "none")


def test_a_noise_masks_reward_is_minus_what_the_image_costs() -> None:
    module = noise_mask(label_kind="multi").eval()
    images, labels = next(iter(Findings().loader()))
    rollout = module.reward(module.act((images, labels)))
    masks = module.render_masks(rollout.actions, 32)
    logits = module(rollout.observations["images"] * masks)
    expected = F.binary_cross_entropy_with_logits(logits, labels.repeat_interleave(2, dim=0), reduction="none")
    torch.testing.assert_close(rollout.rewards, -expected.mean(dim=1).detach())


@pytest.mark.filterwarnings("ignore:The mask policy at iteration")
def test_diagnostics_take_several_labels() -> None:
    watch = MaskDiagnostics(images=8, draws=1, gradient_draws=4, gradient_images=4)
    run = quiet_trainer(ReinforceUpdate(), watch, steps=1)
    run.fit(noise_mask(num_classes=None), Findings())
    assert math.isfinite(run.callback_metrics["val/learned_minus_twin"])
    assert math.isfinite(run.callback_metrics["val/gradient_cosine"])


def test_model_and_data_must_agree() -> None:
    def test(module: ImageClassifier | NoiseMaskPretraining, data: LightningDataModule) -> None:
        Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).validate(module, data, verbose=False)

    with pytest.raises(ValueError, match="label_kind is single, but the labels of Findings are multi; leave"):
        test(ImageClassifier("test_resnet", label_kind="single"), Findings())
    with pytest.raises(ValueError, match="label_kind is multi, but the labels of Grades are ordinal"):
        test(ImageClassifier("test_resnet", label_kind="multi"), Grades())
    with pytest.raises(ValueError, match="label_kind must be one of single, ordinal, multi, got 'many'"):
        test(ImageClassifier("test_resnet", label_kind="many"), Findings())  # type: ignore[arg-type]
