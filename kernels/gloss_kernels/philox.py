"""Philox4x32-10 on a GPU: one uniform per (seed, item key, sample, position).

    counter = (position, sample, item_key low, item_key high),   key = (seed low, seed high)
    u       = (top 23 bits of the first output word + 0.5) * 2^-23

The rounds are Triton's own, in unsigned 32-bit words; the reference's bits exactly. Reads what the
four arguments hold, 8 bytes an element, and writes 4 bytes a uniform. One launch; a program makes a
tile of the broadcast shape and reads arguments by their strides, 0 where one is broadcast.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 4, 128
_NUM_WARPS = 4
"""4 draws a thread. Chosen, not swept: no GPU was at hand."""


# Sizes differ between admissions: a kernel made for each would be compiled in a request.
@triton.jit(
    do_not_specialize=[
        *("num_rows", "width", "seeds_row", "seeds_column", "item_keys_row", "item_keys_column"),
        *("samples_row", "samples_column", "positions_row", "positions_column"),
    ],
    # The first three may be rows of one tensor, of any length.
    do_not_specialize_on_alignment=["seeds_ptr", "item_keys_ptr", "samples_ptr"],
)
def _philox_kernel(
    seeds_ptr,
    item_keys_ptr,
    samples_ptr,
    positions_ptr,
    out_ptr,
    num_rows,
    width,
    seeds_row,
    seeds_column,
    item_keys_row,
    item_keys_column,
    samples_row,
    samples_column,
    positions_row,
    positions_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < num_rows) & (column < width)
    seeds = tl.load(seeds_ptr + row * seeds_row + column * seeds_column, mask=inside, other=0)
    item_keys = tl.load(
        item_keys_ptr + row * item_keys_row + column * item_keys_column, mask=inside, other=0
    )
    samples = tl.load(
        samples_ptr + row * samples_row + column * samples_column, mask=inside, other=0
    )
    positions = tl.load(
        positions_ptr + row * positions_row + column * positions_column, mask=inside, other=0
    )
    first, _, _, _ = tl.philox(
        seeds,
        positions.to(tl.uint32),
        samples.to(tl.uint32),
        item_keys.to(tl.uint32),
        (item_keys >> 32).to(tl.uint32),
    )
    uniforms = ((first >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    tl.store(out_ptr + row * width + column, uniforms, mask=inside)


def philox_uniform(
    seeds: Tensor, item_keys: Tensor, sample_indices: Tensor, positions: Tensor
) -> Tensor:
    """See `gloss_kernels.reference.philox`; the broadcast shape has at most two dimensions."""
    arguments = (seeds, item_keys, sample_indices, positions)
    for argument in arguments:
        assert argument.dtype == torch.int64 and argument.device == seeds.device
    shape = torch.broadcast_shapes(*(argument.shape for argument in arguments))
    assert len(shape) <= 2, shape
    out = torch.empty(shape, dtype=torch.float32, device=seeds.device)
    if out.numel() == 0:
        return out
    num_rows, width = (1, 1, *shape)[-2:]
    spread = [argument.expand(num_rows, width) for argument in arguments]
    _philox_kernel[(triton.cdiv(num_rows, _ROWS), triton.cdiv(width, _COLUMNS))](
        *spread,
        out,
        num_rows,
        width,
        *(stride for argument in spread for stride in argument.stride()),
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        num_warps=_NUM_WARPS,
    )
    return out
