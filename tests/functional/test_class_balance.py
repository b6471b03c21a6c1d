"""Weights and offsets of unbalanced classes: by hand, by slow loops, and what sharding and order must not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tamis.functional import balanced_cross_entropy, class_weights, logit_offsets
from tamis.functional.class_balance import ClassWeighting

COUNTS = torch.tensor([8, 2, 0, 40])


def slow_weights(counts: list[int], balance: ClassWeighting, beta: float) -> list[float]:
    """The effective number as the sum 1 + beta + ... + beta^(n - 1), and the mean over every single image."""
    raw = []
    for n in counts:
        effective = sum(beta**k for k in range(n)) if balance == "effective" else n if balance == "inverse" else 1
        raw.append(1 / effective if n else 0.0)
    every_image = [raw[label] for label, n in enumerate(counts) for _ in range(n)]
    mean = sum(every_image) / len(every_image)
    return [weight / mean for weight in raw]


def test_inverse_weights_by_hand() -> None:
    # 1/8, 1/2, none, 1/40; the sum over images is 1 + 1 + 1 = 3 of 50 images, the mean 0.06.
    assert class_weights(COUNTS, "inverse").tolist() == pytest.approx([0.125 / 0.06, 0.5 / 0.06, 0, 0.025 / 0.06])


def test_effective_weights_by_hand() -> None:
    # beta 1/2: numbers 1 + 1/2 = 3/2 and 1 + 1/2 + 1/4 = 7/4; raw 2/3 and 4/7. Over 2 + 3 images the sum is
    # 4/3 + 12/7 = 64/21, the mean 64/105; 2/3 * 105/64 = 35/32 and 4/7 * 105/64 = 15/16.
    assert class_weights(torch.tensor([2, 3]), "effective", 0.5).tolist() == pytest.approx([35 / 32, 15 / 16])


def test_offsets_by_hand() -> None:
    # 50 images; the class without any counts as one.
    expected = [2 * math.log(share) for share in (8 / 50, 2 / 50, 1 / 50, 40 / 50)]
    assert logit_offsets(COUNTS, 2.0).tolist() == pytest.approx(expected)
    assert logit_offsets(COUNTS, 0.0).tolist() == [0, 0, 0, 0]


def test_the_loss_by_hand() -> None:
    # Logits 0 and 0 with offsets log 1/4 and log 3/4 are the priors themselves: -log 1/4, times the weight 3.
    logits, weights = torch.zeros(2, 2), torch.tensor([3.0, 0.5])
    offsets = torch.tensor([0.25, 0.75]).log()
    found = balanced_cross_entropy(logits, torch.tensor([0, 1]), weights, offsets)
    assert found.tolist() == pytest.approx([3 * math.log(4), 0.5 * math.log(4 / 3)])


@pytest.mark.parametrize("balance", ["none", "inverse", "effective"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.99])
def test_weights_against_loops_over_images(balance: ClassWeighting, beta: float) -> None:
    for counts in ([8, 2, 0, 40], [1], [0, 3], [5, 5, 5], [1, 700]):
        found = class_weights(torch.tensor(counts), balance, beta)
        assert found.tolist() == pytest.approx(slow_weights(counts, balance, beta), rel=1e-6)
        assert float((found.double() * torch.tensor(counts)).sum()) == pytest.approx(sum(counts))


def test_the_loss_against_loops_over_images() -> None:
    logits, labels = torch.randn(9, 4), torch.tensor([0, 1, 3, 3, 0, 1, 3, 3, 3])
    weights, offsets = class_weights(COUNTS, "inverse"), logit_offsets(COUNTS, 1.5)
    slow = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        moved = [value + float(offset) for value, offset in zip(row, offsets, strict=True)]
        slow.append(float(weights[label]) * (math.log(sum(map(math.exp, moved))) - moved[label]))
    assert balanced_cross_entropy(logits, labels, weights, offsets).tolist() == pytest.approx(slow, rel=1e-5)


def test_the_limits_of_beta() -> None:
    assert class_weights(COUNTS, "effective", 0.0).tolist() == pytest.approx([1, 1, 0, 1])
    nearly_one = class_weights(COUNTS, "effective", 1 - 1e-12)
    torch.testing.assert_close(nearly_one, class_weights(COUNTS, "inverse"))


def test_radimagenet_sizes_stay_finite() -> None:
    counts = torch.tensor([85_073, 47, 0, 1_000_000])
    for balance, beta in (("inverse", 0.0), ("effective", 0.0), ("effective", 0.9999999)):
        assert class_weights(counts, balance, beta).isfinite().all()  # type: ignore[arg-type]
    assert logit_offsets(counts, 1.0).isfinite().all()


def test_equal_classes_weigh_one() -> None:
    for balance in ("none", "inverse", "effective"):
        assert class_weights(torch.tensor([7, 7, 7]), balance).tolist() == pytest.approx([1, 1, 1])


def test_order_of_the_classes_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(class_weights(COUNTS[order], "effective"), class_weights(COUNTS, "effective")[order])
    torch.testing.assert_close(logit_offsets(COUNTS[order], 1.0), logit_offsets(COUNTS, 1.0)[order])


def gradient(logits: Tensor, labels: Tensor) -> Tensor:
    leaf = torch.zeros(4, requires_grad=True)  # a bias that all images share, as all share a network
    weights, offsets = class_weights(COUNTS, "inverse"), logit_offsets(COUNTS, 1.0)
    loss = balanced_cross_entropy(logits + leaf, labels, weights, offsets).mean()
    return torch.autograd.grad(loss, leaf)[0]


def test_the_mean_over_shards_is_the_whole_batch() -> None:
    """What DDP computes; a shard of rare classes only shows what dividing by its own weights would do."""
    logits, labels = torch.randn(8, 4), torch.tensor([1, 1, 1, 1, 3, 3, 0, 3])
    shards = [gradient(part, own) for part, own in zip(logits.split(4), labels.split(4), strict=True)]
    torch.testing.assert_close(torch.stack(shards).mean(dim=0), gradient(logits, labels))
    weights = class_weights(COUNTS, "inverse")
    divided = [float(F.cross_entropy(*part, weights)) for part in zip(logits.split(4), labels.split(4), strict=True)]
    assert sum(divided) / 2 != pytest.approx(float(F.cross_entropy(logits, labels, weights)), rel=0.05)


def test_a_class_without_images_leaves_no_nan() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    weights, offsets = class_weights(COUNTS, "effective"), logit_offsets(COUNTS, 1.0)
    loss = balanced_cross_entropy(logits, torch.tensor([0, 1, 2, 3, 2]), weights, offsets)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert loss[2] == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_logit_adjustment_learns_the_balanced_posterior() -> None:
    """With tau 1 the loss is least, for images that tell nothing, at equal logits; without it, at the priors."""
    labels = torch.tensor([0] * 3 + [1])
    for tau, expected in ((1.0, 0.0), (0.0, math.log(3))):
        logits = torch.tensor([expected, 0.0], requires_grad=True)
        offsets = logit_offsets(torch.tensor([3, 1]), tau)
        balanced_cross_entropy(logits.expand(4, 2), labels, None, offsets).mean().backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, torch.zeros(2))


def test_what_cannot_be_is_refused() -> None:
    for counts in (torch.tensor([0, 0]), torch.tensor([3, -1]), torch.tensor([1.0, 2.0]), torch.ones(2, 2).long()):
        with pytest.raises(ValueError, match="counts must be whole numbers of images"):
            class_weights(counts, "inverse")
        with pytest.raises(ValueError, match="counts must be whole numbers of images"):
            logit_offsets(counts, 1.0)
    for beta in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\)"):
            class_weights(COUNTS, "effective", beta)
    for tau in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="tau must be finite and at least 0"):
            logit_offsets(COUNTS, tau)
    with pytest.raises(ValueError, match="the weighting must be none, inverse or effective, got 'class'"):
        class_weights(COUNTS, "class")  # type: ignore[arg-type]
