"""Capture on a GPU: rows of the residual stream as float32, their norms, their way into a buffer.

    raw_i  = h[rows_i]                                      float32, an exact copy
    norm_i = ||raw_i||_2                                    float32 sum of squares
    buffer[buffer_rows_i] = raw_i * injection_scale / max(norm_i, 1e-12)      (only with a buffer)

This is the capture kernel: it reads n rows once and writes n rows in float32, and with a buffer n
rows more in the buffer's type. One launch, one program a row. It is no lever on throughput (1,024
rows of 3584 are 22 MB); it is there to be exact, to run inside a graph and to spare a hop over the
host between the target's residual stream and the AV's prefill.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.launch import row_warps
from gloss_kernels.rows import check_indices, row_block, write_scaled


@triton.jit
def _row_norm(first, row_ptr, column_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The L2 norm of a row whose first block, in float32, is `first`; float32 throughout."""
    squares = first * first
    for start in range(BLOCK, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK).to(tl.int64)
        value = tl.load(row_ptr + column * column_stride, mask=column < WIDTH, other=0.0)
        squares += value.to(tl.float32) * value.to(tl.float32)
    return tl.sqrt(tl.sum(squares, axis=0))


@triton.jit
def _length_factor(norm, length):
    """What brings a row to an L2 norm of `length`; a comparison, because tl.maximum drops a NaN."""
    return length / tl.where(norm < 1e-12, 1e-12, norm)


@triton.jit
def _hook_gather_kernel(
    hidden_ptr,
    rows_ptr,
    raw_ptr,
    norms_ptr,
    buffer_ptr,
    buffer_rows_ptr,
    hidden_stride,
    column_stride,
    buffer_stride,
    injection_scale,
    HAS_BUFFER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    source_ptr = hidden_ptr + tl.load(rows_ptr + row) * hidden_stride
    column = tl.arange(0, BLOCK).to(tl.int64)
    inside = column < WIDTH
    first = tl.load(source_ptr + column * column_stride, mask=inside, other=0.0).to(tl.float32)
    write_scaled(first, 1.0, source_ptr, column_stride, raw_ptr + row * WIDTH, WIDTH, BLOCK)
    norm = _row_norm(first, source_ptr, column_stride, WIDTH, BLOCK)
    tl.store(norms_ptr + row, norm)
    if HAS_BUFFER:
        target_ptr = buffer_ptr + tl.load(buffer_rows_ptr + row) * buffer_stride
        factor = _length_factor(norm, injection_scale)
        write_scaled(first, factor, source_ptr, column_stride, target_ptr, WIDTH, BLOCK)


def hook_gather(
    hidden_states: Tensor,
    rows: Tensor,
    *,
    buffer: Tensor | None = None,
    buffer_rows: Tensor | None = None,
    injection_scale: float = 1.0,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """See `gloss_kernels.reference.hook_gather`; indices out of range are not looked for."""
    num_rows, width, device = rows.shape[0], hidden_states.shape[1], hidden_states.device
    assert hidden_states.ndim == 2 and hidden_states.is_floating_point()
    check_indices(rows, num_rows, device)
    if out is None:
        raw = torch.empty(num_rows, width, dtype=torch.float32, device=device)
        norms = torch.empty(num_rows, dtype=torch.float32, device=device)
    else:
        raw, norms = out
        assert raw.shape == (num_rows, width) and norms.shape == (num_rows,)
        for result in out:
            assert result.dtype == torch.float32 and result.device == device
            assert result.is_contiguous()
    target, target_rows = raw, rows
    if buffer is not None:
        assert buffer_rows is not None
        check_indices(buffer_rows, num_rows, device)
        assert buffer.ndim == 2 and buffer.shape[1] == width and buffer.device == device
        assert buffer.is_floating_point() and (buffer.stride(1) == 1 or width == 1)
        target, target_rows = buffer, buffer_rows
    if num_rows == 0:
        return raw, norms
    block = row_block(width)
    _hook_gather_kernel[(num_rows,)](
        hidden_states,
        rows,
        raw,
        norms,
        target,
        target_rows,
        hidden_states.stride(0),
        hidden_states.stride(1),
        target.stride(0),
        injection_scale,
        HAS_BUFFER=buffer is not None,
        WIDTH=width,
        BLOCK=block,
        num_warps=row_warps(block),
    )
    return raw, norms
