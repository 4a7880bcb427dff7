"""FVE of reconstructions on the activations they are of, and on others."""

from __future__ import annotations

from torch import Tensor

from gloss_training.scoring import fve, normalized_mse


def fidelity_figures(rebuilt: Tensor, activations: Tensor, baseline: float) -> dict[str, float]:
    """FVE and cosine, and FVE with the activations shuffled, which must be at or below 0.

    Args:
        rebuilt: [n, d] reconstructions.
        activations: [n, d] what they are of, raw.
        baseline: the strict one of training activations.
    """
    mse = normalized_mse(rebuilt, activations)
    return {
        "fve": fve(mse, baseline),
        "mean_cosine": float((1.0 - mse / 2.0).mean()),
        "fve_shuffled": fve_of(rebuilt, other_documents(activations), baseline),
    }


def fve_of(rebuilt: Tensor, activations: Tensor, baseline: float) -> float:
    """[n, d], [n, d] -> FVE against the strict baseline."""
    return fve(normalized_mse(rebuilt, activations), baseline)


def other_documents(activations: Tensor) -> Tensor:
    """The rows rolled by half their number, so that each meets a row of a distant document."""
    return activations.roll(max(1, len(activations) // 2), dims=0)
