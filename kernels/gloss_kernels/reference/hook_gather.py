"""Capture: rows of the residual stream as float32, their norms, and their way into a buffer.

    raw_i  = h[rows_i]                                      float32, an exact copy
    norm_i = ||raw_i||_2                                    float32 sum of squares
    buffer[buffer_rows_i] = raw_i * injection_scale / max(norm_i, 1e-12)      (only with a buffer)

Reads n rows once; writes n rows in float32, and with a buffer n rows more in its type.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hook_gather(
    hidden_states: Tensor,
    rows: Tensor,
    *,
    buffer: Tensor | None = None,
    buffer_rows: Tensor | None = None,
    injection_scale: float = 1.0,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Copy out the rows that a hook wants, and optionally inject them at their norm.

    The norm squares in float32, as `torch.linalg.vector_norm` does: a component above 1.8e19
    makes it infinite, and components below 1e-19 no longer count. Activations have norms of up to
    about 1e5. A norm lost to underflow is below the clamp of 1e-12 and changes no injected row.

    Args:
        hidden_states: [num_tokens, d_model] floating point, any strides.
        rows: [n] int64 indices into `hidden_states`, in any order, with repetitions if wanted.
        buffer: [m, d_model] prefill buffer in a type of its own, rows contiguous; updated in
            place.
        buffer_rows: [n] int64 indices into `buffer`, all different but for a row that nobody reads.
        injection_scale: the L2 norm of a row written to `buffer`.
        out: contiguous memory for both results; None makes some.

    Returns:
        raw [n, d_model] float32, exact for every type up to 32 bits; norms [n] float32.
    """
    raw = hidden_states.index_select(0, rows).float()
    norms = torch.linalg.vector_norm(raw, dim=-1)
    if out is not None:
        raw, norms = out[0].copy_(raw), out[1].copy_(norms)
    if buffer is not None:
        assert buffer_rows is not None
        factors = injection_scale / norms.clamp_min(1e-12)
        buffer.index_copy_(0, buffer_rows, (raw * factors.unsqueeze(-1)).to(buffer.dtype))
    return raw, norms
