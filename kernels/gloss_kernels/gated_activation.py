"""The gate of the MLP on a GPU, optionally into fp8.

    y = g * s(x) * u,         s(x) = 1 / (1 + exp(-x)),     [g | u] = gate_up
        silu:       x = g
        gelu_tanh:  x = 2 sqrt(2 / pi) * (g + 0.044715 g^3),  as (1 + tanh t) / 2 = s(2 t)
    fp8:  scale = max |y| / 448,     out_i = y_i / scale    (one scale a row)

Reads gate_up once, writes half as much (a quarter in fp8, and the scales). Only exp(-|x|) is taken,
which cannot overflow. Plain: a program a block of columns of a row. fp8: a program a row, held in
registers from the maximum to the division, in two pieces: of 18,944 columns, 16,384 and then 4,096
leave few lanes idle where 32,768 would leave almost half.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.fp8 import FP8_DTYPE, Fp8Rows
from gloss_kernels.launch import next_power_of_2
from gloss_kernels.quantize import magnitude_bits, quantized, row_scale
from gloss_kernels.reference.gated_activation import check_activation

MOST_HELD_COLUMNS = 32768
"""Widest row of the fp8 kernel: 64 float32 values a thread of 512, half of its registers."""

_BLOCK = 1024
"""Columns a plain program: 16 bytes of gate and of up a thread of 128. Chosen, not swept: no GPU
was at hand. The widths of the released pairs are multiples of it, or of half of it."""


@triton.jit
def _gated(gate_ptr, up_ptr, column, width, GELU: tl.constexpr):
    """y in float32 at some columns of a row; 0 beyond its end."""
    inside = column < width
    gate = tl.load(gate_ptr + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + column, mask=inside, other=0.0).to(tl.float32)
    logit = gate
    if GELU:
        logit = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    decay = tl.exp(-tl.abs(logit))
    return gate * tl.where(logit >= 0, 1.0, decay) / (1.0 + decay) * up


@triton.jit
def _gated_activation_kernel(
    gate_up_ptr, out_ptr, row_stride, width, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate_ptr = gate_up_ptr + row * row_stride
    out = _gated(gate_ptr, gate_ptr + width, column, width, GELU)
    target = out_ptr + row * width + column
    tl.store(target, out.to(out_ptr.dtype.element_ty), mask=column < width)


@triton.jit
def _gated_activation_fp8_kernel(
    gate_up_ptr,
    out_ptr,
    scale_ptr,
    row_stride,
    width,
    GELU: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    gate_ptr = gate_up_ptr + row * row_stride
    out_ptr += row * width
    column = tl.arange(0, FIRST)
    first = _gated(gate_ptr, gate_ptr + width, column, width, GELU)
    bits = tl.max(magnitude_bits(first), axis=0)
    if SECOND > 0:
        rest = FIRST + tl.arange(0, SECOND)
        second = _gated(gate_ptr, gate_ptr + width, rest, width, GELU)
        bits = tl.maximum(bits, tl.max(magnitude_bits(second), axis=0))
    scale = row_scale(bits)
    tl.store(scale_ptr + row, scale)
    tl.store(out_ptr + column, quantized(first, scale), mask=column < width)
    if SECOND > 0:
        tl.store(out_ptr + rest, quantized(second, scale), mask=rest < width)


def gated_activation(gate_up: Tensor, activation: str) -> Tensor:
    """See `gloss_kernels.reference.gated_activation`; rows may be strided."""
    width = _checked_width(gate_up, activation)
    num_tokens = gate_up.shape[0]
    out = torch.empty(num_tokens, width, dtype=gate_up.dtype, device=gate_up.device)
    if out.numel() == 0:
        return out
    block = min(_BLOCK, next_power_of_2(width))
    _gated_activation_kernel[(num_tokens, triton.cdiv(width, block))](
        gate_up,
        out,
        gate_up.stride(0),
        width,
        GELU=activation == "gelu_tanh",
        BLOCK=block,
        num_warps=max(1, block // 256),
    )
    return out


def gated_activation_fp8(gate_up: Tensor, activation: str) -> Fp8Rows:
    """See `gloss_kernels.reference.gated_activation`; rows may be strided.

    The intermediate size is at most `MOST_HELD_COLUMNS`.
    """
    width = _checked_width(gate_up, activation)
    assert width <= MOST_HELD_COLUMNS, width
    num_tokens = gate_up.shape[0]
    out = torch.empty(num_tokens, width, dtype=FP8_DTYPE, device=gate_up.device)
    scales = torch.empty(num_tokens, 1, dtype=torch.float32, device=gate_up.device)
    if out.numel() == 0:
        return Fp8Rows(values=out, scales=scales)
    first, second = held_pieces(width)
    _gated_activation_fp8_kernel[(num_tokens,)](
        gate_up,
        out,
        scales,
        gate_up.stride(0),
        width,
        GELU=activation == "gelu_tanh",
        FIRST=first,
        SECOND=second,
        num_warps=max(1, min(16, first // 512)),
    )
    return Fp8Rows(values=out, scales=scales)


def held_pieces(width: int) -> tuple[int, int]:
    """Two powers of two that cover a row: one within it, and the least for the rest, 0 if none."""
    first = 1 << (width.bit_length() - 1)
    return first, next_power_of_2(width - first) if width > first else 0


def _checked_width(gate_up: Tensor, activation: str) -> int:
    check_activation(activation)
    assert gate_up.ndim == 2 and gate_up.shape[1] % 2 == 0
    assert gate_up.stride(1) == 1 and gate_up.is_floating_point()
    return gate_up.shape[1] // 2
