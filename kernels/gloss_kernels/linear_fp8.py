"""A linear layer in 8-bit floating point on a GPU: rows quantised by a kernel, PyTorch's product.

    x_ij ~ x8_ij * s_i,  w_oj ~ w8_oj * t_o                 (e4m3; scales: largest magnitude / 448)
    y_io = (sum_j x8_ij * w8_oj) * s_i * t_o + bias_o

Quantising reads a row once and writes a byte an element and a scale: one launch, one program a row,
strided rows too. The product is `torch._scaled_mm`: cuBLAS from 12.9 on, CUTLASS before. It has no
kernel here, since no Triton one is known to win on Hopper.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.fp8 import FP8_DTYPE, Fp8Rows
from gloss_kernels.launch import row_warps
from gloss_kernels.quantize import magnitude_bits, quantized, row_scale
from gloss_kernels.rows import row_block

FAST_ACCUMULATION = True
"""Sums stay in the tensor cores, which on Hopper keep 13 bits of significand and cut off the rest
after every 32 products. A random sum thereby shrinks by about in_features / 32 / 2 * 2^-14.5: 0.2%
at 3,584 and 1.3% at 18,944, against 3.7% of rounding to e4m3. Without it CUTLASS's row-wise product
is reported to be very slow (torchao #1325). An estimate: no GPU was at hand to measure either."""

ALIGNMENT = 16
"""Both widths of a weight must be multiples of this; the number of tokens need not."""


@triton.jit
def _quantize_rows_kernel(
    x_ptr,
    values_ptr,
    scales_ptr,
    row_stride,
    column_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    source_ptr, target_ptr = x_ptr + row * row_stride, values_ptr + row * WIDTH
    column = tl.arange(0, BLOCK).to(tl.int64)
    inside = column < WIDTH
    first = tl.load(source_ptr + column * column_stride, mask=inside, other=0.0).to(tl.float32)
    bits = magnitude_bits(first)
    for start in range(BLOCK, WIDTH, BLOCK):
        rest = start + column
        value = tl.load(source_ptr + rest * column_stride, mask=rest < WIDTH, other=0.0)
        bits = tl.maximum(bits, magnitude_bits(value.to(tl.float32)))
    scale = row_scale(tl.max(bits, axis=0))
    tl.store(scales_ptr + row, scale)
    tl.store(target_ptr + column, quantized(first, scale), mask=inside)
    for start in range(BLOCK, WIDTH, BLOCK):
        rest = start + column
        value = tl.load(source_ptr + rest * column_stride, mask=rest < WIDTH, other=0.0)
        tl.store(target_ptr + rest, quantized(value.to(tl.float32), scale), mask=rest < WIDTH)


def quantize_fp8(rows: Tensor) -> Fp8Rows:
    """See `gloss_kernels.reference.linear_fp8`; copies only what no [n, width] view can address."""
    width, device = rows.shape[-1], rows.device
    assert rows.is_floating_point()
    values = torch.empty(rows.shape, dtype=FP8_DTYPE, device=device)
    scales = torch.empty(*rows.shape[:-1], 1, dtype=torch.float32, device=device)
    if rows.numel():
        flat, block = rows.reshape(-1, width), row_block(width)
        _quantize_rows_kernel[(flat.shape[0],)](
            flat,
            values,
            scales,
            flat.stride(0),
            flat.stride(1),
            WIDTH=width,
            BLOCK=block,
            num_warps=row_warps(block),
        )
    return Fp8Rows(values=values, scales=scales)


def linear_fp8(
    rows: Fp8Rows, weight: Fp8Rows, bias: Tensor | None = None, *, dtype: torch.dtype
) -> Tensor:
    """See `gloss_kernels.reference.linear_fp8`; widths must be multiples of 16.

    bfloat16 results work with every CUDA build; others need cuBLAS 12.9.
    """
    (num_rows, in_features), out_features = rows.values.shape, weight.values.shape[0]
    device = rows.values.device
    assert weight.values.shape == (out_features, in_features) and weight.values.device == device
    assert rows.values.is_contiguous() and weight.values.is_contiguous()
    assert rows.values.dtype == weight.values.dtype == FP8_DTYPE
    assert rows.scales.shape == (num_rows, 1) and weight.scales.shape == (out_features, 1)
    assert rows.scales.is_contiguous() and weight.scales.is_contiguous()
    assert in_features % ALIGNMENT == 0 and out_features % ALIGNMENT == 0, weight.values.shape
    if bias is not None:
        assert bias.shape == (out_features,) and bias.dtype == dtype and bias.device == device
    if num_rows == 0:
        return torch.empty(0, out_features, dtype=dtype, device=device)
    # PyTorch adds a bias to 16-bit results only.
    late = bias if dtype == torch.float32 else None
    out = torch._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scales,
        scale_b=weight.scales.t(),
        bias=None if late is not None else bias,
        out_dtype=dtype,
        use_fast_accum=FAST_ACCUMULATION,
    )
    return out if late is None else out.add_(late)
