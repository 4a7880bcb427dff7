"""The gate of the MLP, optionally into fp8.

    y = silu(g) * u        or        y = gelu_tanh(g) * u,        [g | u] = gate_up
    fp8:  scale = max |y| / 448,     out_i = y_i / scale      (one scale a row)

Reads gate_up once, writes half as much.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gloss_kernels.fp8 import Fp8Rows, quantize_rows

ACTIVATIONS = ("silu", "gelu_tanh")


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
    check_activation(activation)
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "silu":
        return F.silu(gate).mul_(up)
    return F.gelu(gate, approximate="tanh").mul_(up)


def gated_activation_fp8(gate_up: Tensor, activation: str) -> Fp8Rows:
    """`gated_activation` with its result quantised from float32, so that it is rounded once.

    Args, Raises: see `gated_activation`.

    Returns:
        [num_tokens, intermediate_size] with scales [num_tokens, 1].
    """
    return quantize_rows(gated_activation(gate_up.float(), activation))


def check_activation(activation: str) -> None:
    """Refuse a name that is none of `ACTIVATIONS`.

    Raises:
        ValueError: it is.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected 'silu' or 'gelu_tanh'")
