"""RMS norm, optionally after a residual add.

    r_i = residual_i + x_i                                  (only with a residual)
    y_i = r_i / sqrt(mean(r^2) + eps) * (offset + weight_i)
    fp8:  scale = max |y| / 448,   out_i = y_i / scale      (one scale a row)

Reads x, residual and weight once; writes residual and y once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gloss_kernels.fp8 import Fp8Rows, quantize_rows


def rms_norm(
    hidden_states: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    residual: Tensor | None = None,
) -> Tensor:
    """Normalise the rows of `hidden_states`, adding them into `residual` first if there is one.

    Args:
        hidden_states: [..., n] floating point.
        weight: [n], same dtype.
        eps: added to the mean square.
        offset: 1 for Gemma, whose weights are stored about zero; else 0.
        residual: same shape as `hidden_states`; updated in place to residual + hidden_states.

    Returns:
        [..., n], the dtype of `hidden_states`; arithmetic is float32.
    """
    if residual is not None:
        hidden_states = residual.add_(hidden_states)
    scale = weight if offset == 0.0 else weight.float() + offset
    if hidden_states.dtype == torch.float32:
        return F.rms_norm(hidden_states, weight.shape, scale, eps)
    normed = F.rms_norm(hidden_states.float(), weight.shape, scale.float(), eps)
    return normed.to(hidden_states.dtype)


def rms_norm_fp8(
    hidden_states: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    residual: Tensor | None = None,
) -> Fp8Rows:
    """`rms_norm` with its result quantised from float32, so that it is rounded once.

    Args: see `rms_norm`.

    Returns:
        [..., n] with scales [..., 1].
    """
    if residual is not None:
        hidden_states = residual.add_(hidden_states)
    scale = weight.float() + offset
    return quantize_rows(F.rms_norm(hidden_states.float(), weight.shape, scale, eps))
