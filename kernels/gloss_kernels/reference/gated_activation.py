"""The gate of the MLP.

    y = silu(g) * u        or        y = gelu_tanh(g) * u,        [g | u] = gate_up

Reads gate_up once, writes half as much.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gated_activation(gate_up: Tensor, activation: str) -> Tensor:
    """Apply the gate.

    Args:
        gate_up: [num_tokens, 2 * intermediate_size], gate half first.
        activation: "silu" or "gelu_tanh".

    Returns:
        [num_tokens, intermediate_size] in the input's dtype.

    Raises:
        ValueError: an activation of another name.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "silu":
        return F.silu(gate).mul_(up)
    if activation == "gelu_tanh":
        return F.gelu(gate, approximate="tanh").mul_(up)
    raise ValueError(f"activation: got {activation!r}, expected 'silu' or 'gelu_tanh'")
