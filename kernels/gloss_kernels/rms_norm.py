"""RMS norm on a GPU, optionally after a residual add, optionally into fp8.

    r_i = residual_i + x_i                                  (only with a residual)
    y_i = r_i / sqrt(mean(r^2) + eps) * (offset + weight_i)
    fp8:  scale = max |y| / 448,   out_i = y_i / scale      (one scale a row)

Reads x, residual and weight once; writes residual and y once. One program a row: the row stays in
registers between the sum of squares and the scaling.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.fp8 import FP8_DTYPE, Fp8Rows
from gloss_kernels.launch import next_power_of_2, row_warps
from gloss_kernels.quantize import magnitude_bits, quantized, row_scale


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    scale_ptr,
    x_stride,
    width,
    eps,
    offset,
    HAS_RESIDUAL: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    inside = index < width
    x = tl.load(x_ptr + row * x_stride + index, mask=inside, other=0.0)
    values = x.to(tl.float32)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row * width + index, mask=inside, other=0.0)
        # The stream is kept in the model's type, and the norm sees what is kept.
        total = (values + residual.to(tl.float32)).to(x.dtype)
        tl.store(residual_ptr + row * width + index, total, mask=inside)
        values = total.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
    weight = tl.load(weight_ptr + index, mask=inside, other=0.0).to(tl.float32)
    out = values * inverse * (weight + offset)
    if QUANTIZE:
        scale = row_scale(tl.max(magnitude_bits(out), axis=0))
        tl.store(scale_ptr + row, scale)
        out = quantized(out, scale)
    tl.store(out_ptr + row * width + index, out.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(
    hidden_states: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    residual: Tensor | None = None,
) -> Tensor:
    """See `gloss_kernels.reference.rms_norm`; the last dimension must be contiguous."""
    out = torch.empty(hidden_states.shape, dtype=hidden_states.dtype, device=hidden_states.device)
    _launch(hidden_states, weight, eps, offset, residual, out, None)
    return out


def rms_norm_fp8(
    hidden_states: Tensor,
    weight: Tensor,
    eps: float,
    *,
    offset: float = 0.0,
    residual: Tensor | None = None,
) -> Fp8Rows:
    """See `gloss_kernels.reference.rms_norm`; the last dimension must be contiguous."""
    shape, device = hidden_states.shape, hidden_states.device
    out = torch.empty(shape, dtype=FP8_DTYPE, device=device)
    scales = torch.empty(*shape[:-1], 1, dtype=torch.float32, device=device)
    _launch(hidden_states, weight, eps, offset, residual, out, scales)
    return Fp8Rows(values=out, scales=scales)


def _launch(
    hidden_states: Tensor,
    weight: Tensor,
    eps: float,
    offset: float,
    residual: Tensor | None,
    out: Tensor,
    scales: Tensor | None,
) -> None:
    width = hidden_states.shape[-1]
    assert weight.shape == (width,) and weight.is_contiguous()
    assert weight.dtype == hidden_states.dtype and weight.device == hidden_states.device
    if residual is not None:
        assert residual.shape == hidden_states.shape and residual.is_contiguous()
        assert residual.dtype == hidden_states.dtype and residual.device == hidden_states.device
    if hidden_states.numel() == 0:
        return
    rows = hidden_states.reshape(-1, width)
    assert rows.stride(1) == 1 or width == 1
    block = next_power_of_2(width)
    _rms_norm_kernel[(rows.shape[0],)](
        rows,
        rows if residual is None else residual,
        weight,
        out,
        out if scales is None else scales,
        rows.stride(0),
        width,
        eps,
        offset,
        HAS_RESIDUAL=residual is not None,
        QUANTIZE=scales is not None,
        BLOCK=block,
        num_warps=row_warps(block),
    )
