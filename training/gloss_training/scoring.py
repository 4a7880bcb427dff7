"""Reconstruction scores: normalised mse, the strict baseline, FVE, cosine.

mse = mean over d of (a - b)^2 with both vectors scaled to norm s; for s = sqrt(d) that is
2 (1 - cos). FVE = 1 - mse / baseline, where baseline is the variance of the normalised
activations about their un-normalised mean (the strict choice: the looser one, against the
normalised mean, flatters).
"""

import math

import torch

EPSILON = 1e-12


def normalize(vectors: torch.Tensor, scale: float) -> torch.Tensor:
    """Rows scaled to norm `scale`. vectors: [n, d]; zero rows stay zero, gradients finite."""
    squared = vectors.square().sum(-1, keepdim=True)
    return vectors * (scale * torch.rsqrt(squared + EPSILON**2))


def normalized_mse(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """[n, d], [n, d] -> [n]: mse of rows scaled to norm sqrt(d); 0 to 4."""
    scale = math.sqrt(left.shape[-1])
    return (normalize(left, scale) - normalize(right, scale)).square().mean(-1)


def strict_baseline(activations: torch.Tensor) -> float:
    """Variance of the normalised activations [n, d] about their un-normalised mean, in fp64."""
    rows = normalize(activations.double(), math.sqrt(activations.shape[-1]))
    return float((rows - rows.mean(0)).square().mean())


def fve(mse: torch.Tensor, baseline: float) -> float:
    """Fraction of variance explained, from the mse of each row [n]."""
    return 1.0 - float(mse.double().mean()) / baseline
