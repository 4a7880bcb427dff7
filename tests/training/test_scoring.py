"""Score mathematics against values worked out in fp64."""

import math

import pytest
import torch

from gloss_training.scoring import fve, normalize, normalized_mse, strict_baseline


def test_mse_is_two_times_one_minus_cosine() -> None:
    left = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    right = torch.tensor([[6.0, 8.0], [0.0, 5.0], [-2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    by_hand = [0.0, 2.0, 4.0, 2.0 * (1.0 - 1.0 / math.sqrt(2.0))]
    torch.testing.assert_close(
        normalized_mse(left, right), torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_float32_agrees_with_float64() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 7, 96, dtype=torch.float64).unbind(0)
    exact = normalized_mse(left, right)
    torch.testing.assert_close(
        normalized_mse(left.float(), right.float()).double(), exact, rtol=2e-6, atol=2e-6
    )


def test_strict_baseline_by_hand() -> None:
    # Scaled to norm sqrt(2): (sqrt2, 0) and (0, sqrt2); mean (1, 1)/sqrt2; every deviation
    # component is +-1/sqrt2, so the mean square is 1/2.
    rows = torch.tensor([[5.0, 0.0], [0.0, 0.25]])
    assert strict_baseline(rows) == pytest.approx(0.5, abs=1e-12)


def test_fve_of_a_perfect_reconstruction_is_one() -> None:
    torch.manual_seed(1)
    rows = torch.randn(33, 12, dtype=torch.float64)
    assert fve(normalized_mse(rows, rows * 7.0), strict_baseline(rows)) == pytest.approx(
        1.0, abs=1e-12
    )


def test_fve_of_the_mean_scored_without_renormalising_is_zero() -> None:
    torch.manual_seed(2)
    rows = normalize(torch.randn(33, 12, dtype=torch.float64) + 0.5, math.sqrt(12))
    mse = (rows - rows.mean(0)).square().mean(-1)
    assert fve(mse, strict_baseline(rows)) == pytest.approx(0.0, abs=1e-12)


def test_fve_of_the_mean_direction_is_negative() -> None:
    """The scorer renormalises, so the mean as a guess scores 1 - loose / strict, below zero."""
    torch.manual_seed(3)
    rows = torch.randn(500, 12, dtype=torch.float64) + 0.5
    guess = normalize(rows, math.sqrt(12)).mean(0).expand_as(rows)
    assert fve(normalized_mse(rows, guess), strict_baseline(rows)) < -0.05


def test_baseline_ignores_lengths() -> None:
    torch.manual_seed(4)
    rows = torch.randn(20, 8)
    lengths = torch.rand(20, 1) * 100 + 0.1
    assert strict_baseline(rows * lengths) == pytest.approx(strict_baseline(rows), rel=1e-5)


def test_gradient_is_finite_at_zero_and_orthogonal_elsewhere() -> None:
    vectors = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 2.0]], dtype=torch.float64)
    vectors.requires_grad_(True)
    normalize(vectors, 3.0)[:, 0].sum().backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert float(vectors.grad[1] @ vectors[1].detach()) == pytest.approx(0.0, abs=1e-12)
