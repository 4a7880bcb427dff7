"""What kernels of one program a row share: the row's block, writing it rescaled, row indices.

    out_i = h_i * factor

A row of up to 16,384 elements is one block that stays in registers from its only load to its
stores. Of a wider row the first block stays and the others are read again for the second pass, by
the program that has just read them: from cache, not from memory. A row's width is the model's and
thus a constant of the kernel: where there is one block, no loop is compiled.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.launch import next_power_of_2

HELD_COLUMNS = 16384
"""The widest row held in registers: 32 float32 values a thread of 512. Chosen, not swept: no GPU
was at hand."""

LOOPED_COLUMNS = 8192
"""A block of a row that is wider."""


def row_block(width: int) -> int:
    """Columns of a block: the whole row where a program can hold it."""
    return next_power_of_2(width) if width <= HELD_COLUMNS else LOOPED_COLUMNS


def check_indices(indices: Tensor, count: int, device: torch.device) -> None:
    """Assert that these are `count` indices as kernels read them, whatever their values."""
    assert indices.shape == (count,) and indices.dtype == torch.int64
    assert indices.is_contiguous() and indices.device == device


@triton.jit
def write_scaled(
    first, factor, row_ptr, column_stride, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Write a row times `factor`: the product in float32, the cast to the output's type last."""
    column = tl.arange(0, BLOCK).to(tl.int64)
    out_type = out_ptr.dtype.element_ty
    tl.store(out_ptr + column, (first * factor).to(out_type), mask=column < WIDTH)
    for start in range(BLOCK, WIDTH, BLOCK):
        rest = start + column
        value = tl.load(row_ptr + rest * column_stride, mask=rest < WIDTH, other=0.0)
        scaled = value.to(tl.float32) * factor
        tl.store(out_ptr + rest, scaled.to(out_type), mask=rest < WIDTH)
