import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tamis.functional import official_noise_objective, upsample_blur, upsample_blur_matrix

GEOMETRIES = [
    (64, 224, 13, 6.0),  # the published one
    (224, 224, 13, 6.0),
    (4, 224, 13, 6.0),
    (65, 225, 13, 6.0),
    (7, 101, 11, 2.0),
    (8, 48, 7, 3.0),
    (5, 32, 5, 1.5),
    (16, 16, 3, 1.0),
]


@pytest.mark.parametrize(("grid", "size", "kernel_size", "sigma"), GEOMETRIES)
def test_one_matrix_equals_interpolate_then_blur(grid: int, size: int, kernel_size: int, sigma: float) -> None:
    from torchvision.transforms.v2.functional import gaussian_blur

    mask = torch.rand(3, 1, grid, grid)
    slow = gaussian_blur(F.interpolate(mask, size=size, mode="nearest"), [kernel_size] * 2, [sigma] * 2)
    torch.testing.assert_close(upsample_blur(mask, size, kernel_size, sigma), slow, atol=1e-5, rtol=0)


def test_without_blur_cells_are_repeated() -> None:
    mask = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = torch.tensor([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]).float()
    torch.testing.assert_close(upsample_blur(mask, 4, 1, 1.0)[0, 0], expected)


def test_a_constant_mask_stays_constant() -> None:
    torch.testing.assert_close(upsample_blur_matrix(8, 50, 9, 3.0).sum(dim=1), torch.ones(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [((8, 64, 4, 1.0), "odd"), ((65, 64, 3, 1.0), "grid"), ((8, 8, 17, 1.0), "size <"), ((8, 64, 3, 0.0), "sigma")],
)
def test_impossible_geometry_is_refused(options: tuple[int, int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upsample_blur_matrix(*options)


def test_official_objective_by_hand() -> None:
    # Densities 1, 3 and 2, 2 sum to 4 and 4; cross-entropies 1 and 2 average to 1.5: log(4) * 1.5.
    log_probs = torch.log(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    loss = official_noise_objective(log_probs, torch.tensor([1.0, 2.0]))
    assert loss.item() == pytest.approx(math.log(4) * 1.5)


def test_official_objective_equals_the_released_exp_sum_log() -> None:
    log_probs = torch.randn(4, 30)
    cross_entropy = torch.rand(4)
    slow = (log_probs.exp().sum(dim=1).log() * cross_entropy.mean()).mean()
    torch.testing.assert_close(official_noise_objective(log_probs, cross_entropy), slow)


def test_official_objective_multiplies_the_classifiers_gradient() -> None:
    # The hidden learning-rate factor: log M for a uniform mask, whose densities are all 1.
    logits = torch.randn(6, 3, requires_grad=True)
    cross_entropy = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2]))
    (plain,) = torch.autograd.grad(cross_entropy, logits, retain_graph=True)
    (official,) = torch.autograd.grad(official_noise_objective(torch.zeros(6, 64), cross_entropy), logits)
    torch.testing.assert_close(official, math.log(64) * plain)


def test_dividing_the_factor_out_leaves_the_classifier_its_plain_gradient_and_the_policy_the_published_one() -> None:
    logits = torch.randn(6, 3, requires_grad=True)
    log_probs = torch.randn(6, 16, requires_grad=True)
    cross_entropy = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2]))
    (plain,) = torch.autograd.grad(cross_entropy, logits, retain_graph=True)
    published = official_noise_objective(log_probs, cross_entropy)
    (policy,) = torch.autograd.grad(published, log_probs, retain_graph=True)
    divided = official_noise_objective(log_probs, cross_entropy, divide_factor=True)
    torch.testing.assert_close(torch.autograd.grad(divided, (logits, log_probs)), (plain, policy))
    torch.testing.assert_close(divided, published)


@pytest.mark.parametrize("divide_factor", [False, True])
def test_official_objective_of_halves_is_that_of_the_whole(divide_factor: bool) -> None:
    """As two processes have it: each gradient of its half, and the mean of the two."""
    logits, log_probs = torch.randn(6, 3, requires_grad=True), torch.randn(6, 16, requires_grad=True)

    def cost(rows: slice) -> Tensor:
        return F.cross_entropy(logits[rows], torch.tensor([0, 1, 2, 0, 1, 2])[rows])

    def means(_: Tensor) -> Tensor:
        return torch.stack([log_probs.logsumexp(dim=1).mean(), cost(slice(0, 6))]).detach()

    one = official_noise_objective(log_probs, cost(slice(0, 6)), divide_factor)
    halves = [
        official_noise_objective(log_probs[rows], cost(rows), divide_factor, means)
        for rows in (slice(0, 3), slice(3, 6))
    ]
    assert all(float(half.detach()) == pytest.approx(float(one.detach())) for half in halves)
    expected = torch.autograd.grad(one, (logits, log_probs))
    torch.testing.assert_close(torch.autograd.grad((halves[0] + halves[1]) / 2, (logits, log_probs)), expected)


def test_official_objective_drifts_to_uniform_cells_when_all_masks_are_equally_good() -> None:
    """Its expected gradient is not 0 at a constant cross-entropy: it lowers the integral of the squared density."""
    generator = torch.Generator().manual_seed(0)
    log_parameters = torch.tensor([math.log(2.0), math.log(1.3)], requires_grad=True)
    optimizer = torch.optim.SGD([log_parameters], lr=1.0)
    for _ in range(150):
        alpha, beta = log_parameters.exp()
        with torch.no_grad():  # a Beta draw is X / (X + Y) of two Gamma draws
            shape = (32, 128)
            x = torch._standard_gamma(alpha.expand(shape).contiguous(), generator=generator)
            y = torch._standard_gamma(beta.expand(shape).contiguous(), generator=generator)
            cells = (x / (x + y)).clamp(1e-6, 1 - 1e-6)
        loss = official_noise_objective(torch.distributions.Beta(alpha, beta).log_prob(cells), torch.tensor(1.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(log_parameters.exp(), torch.ones(2), atol=0.1, rtol=0)


def test_official_objective_survives_densities_beyond_float32() -> None:
    log_probs = torch.full((2, 4), 200.0, requires_grad=True)
    loss = official_noise_objective(log_probs, torch.tensor(1.0))
    loss.backward()
    assert loss.item() == pytest.approx(200 + math.log(4))
    torch.testing.assert_close(log_probs.grad, torch.full((2, 4), 0.125))


def test_official_objective_needs_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"\[B, M\]"):
        official_noise_objective(torch.zeros(3), torch.tensor(1.0))
