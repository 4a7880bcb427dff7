"""Rows brought to an L2 norm, outside the inner loop: what the AR's scorer and tools need of it.

    out_i = h_i * norm / max(||h_i||_2, 1e-12)

The engine's injected rows get their norm in `hook_gather`, by the same formula.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scale_to_norm(activations: Tensor, norm: float) -> Tensor:
    """Rescale rows to an L2 norm: h * norm / max(||h||, 1e-12), in float32.

    Args:
        activations: [n, d] floating point.
        norm: the L2 norm of every returned row.

    Returns:
        [n, d] float32.
    """
    activations = activations.float()
    lengths = torch.linalg.vector_norm(activations, dim=-1, keepdim=True)
    return activations * (norm / lengths.clamp_min(1e-12))
