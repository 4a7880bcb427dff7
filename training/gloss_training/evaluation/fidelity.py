"""FVE of reconstructions on the activations they are of, and on others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gloss_training.scoring import fve, normalized_mse


def fidelity_figures(rebuilt: Tensor, activations: Tensor, baseline: float) -> dict[str, float]:
    """FVE and cosine.

    Args:
        rebuilt: [n, d] reconstructions.
        activations: [n, d] what they are of, raw.
        baseline: the strict one of training activations.
    """
    mse = normalized_mse(rebuilt, activations)
    return {"fve": fve(mse, baseline), "mean_cosine": float((1.0 - mse / 2.0).mean())}


def shuffled_fve(
    rebuilt: Tensor, activations: Tensor, doc_ids: Sequence[str], baseline: float
) -> float | None:
    """FVE on activations of other documents, which must be at or below 0; None: there are none.

    Args:
        rebuilt, activations, baseline: as `fidelity_figures`.
        doc_ids: n, whose each activation is. A row that meets one of its own is left out.
    """
    met = other_documents(torch.arange(len(doc_ids))).tolist()
    rows = [row for row, other in enumerate(met) if doc_ids[row] != doc_ids[other]]
    if not rows:
        return None
    return fve_of(rebuilt[rows], other_documents(activations)[rows], baseline)


def fve_of(rebuilt: Tensor, activations: Tensor, baseline: float) -> float:
    """[n, d], [n, d] -> FVE against the strict baseline."""
    return fve(normalized_mse(rebuilt, activations), baseline)


def other_documents(activations: Tensor) -> Tensor:
    """The rows rolled by half their number: of many documents, each meets a distant one."""
    return activations.roll(max(1, len(activations) // 2), dims=0)
