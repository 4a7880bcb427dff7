"""What the kernels that end in fp8 share: a row's scale, and its elements rounded to e4m3.

    scale = max(max_i |x_i| / 448, 1e-12),      out_i = x_i / scale rounded to the nearest

A row that holds NaN or infinity gets a scale that is not finite, so none of it dequantises to a
finite number and the sequence's failure stays visible. `tl.max` and `tl.maximum` drop NaN; the
largest magnitude is taken over the bit patterns, which keep the order and put NaN last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gloss_kernels import fp8
from gloss_kernels.launch import INTERPRETED

_FP8_MAX = tl.constexpr(fp8.FP8_MAX)
_LEAST_SCALE = tl.constexpr(fp8.LEAST_SCALE)


@triton.jit
def magnitude_bits(values):
    """|x| of float32 values as integers of the same order; take the maximum of these."""
    return values.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def row_scale(largest_bits):
    """The scale of a row, from the largest of its `magnitude_bits`."""
    scale = tl.div_rn(largest_bits.to(tl.float32, bitcast=True), _FP8_MAX)
    # A comparison, because tl.maximum drops a NaN.
    return tl.where(scale < _LEAST_SCALE, _LEAST_SCALE, scale)


@triton.jit
def quantized(values, scale):
    """float32 values to e4m3.

    Triton's interpreter drops a carry out of the significand: -125.3 became -64 (3.9). There the
    values are rounded to the grid of e4m3 first.
    """
    scaled = tl.clamp(values / scale, -_FP8_MAX, _FP8_MAX)
    if INTERPRETED:
        exponent = scaled.to(tl.int32, bitcast=True) & 0x7F800000
        step = tl.maximum(exponent.to(tl.float32, bitcast=True), 0.015625) / 8
        scaled = ((scaled / step + 12582912.0) - 12582912.0) * step
    return scaled.to(tl.float8e4nv)
