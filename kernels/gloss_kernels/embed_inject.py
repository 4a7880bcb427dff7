"""The rows a forward pass starts from, on a GPU: embedding rows, buffer rows over some of them.

    out_t = embed_scale * table[ids_t]           for an ordinary row
    out_t = buffer[buffer_rows_i]                where t = injected_rows_i, an exact copy

Reads one row of the table or of the buffer per output row and writes the output once. One launch,
one program an output row. Whether its row is injected a program finds by comparing its index with
all of `injected_rows`, so an embedding and a buffer row never race for one row; the few kilobytes
of indices come from cache. The table row is asked for before the answer is known: on an ordinary
row both reads overlap, and an injected row, one in about 25, throws its table row away.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.launch import row_warps
from gloss_kernels.rows import check_indices, row_block, write_scaled

INDEX_BLOCK = 1024
"""Entries of `injected_rows` compared at once: all of them up to the largest batch planned for."""


# Their number changes with every step; specialised for 1 and for multiples of 16 it would compile
# the kernel again in the middle of serving. Only their blocks, nearly always one, are a constant.
@triton.jit(do_not_specialize=["num_injected"])
def _embed_inject_kernel(
    table_ptr,
    ids_ptr,
    injected_ptr,
    buffer_ptr,
    buffer_rows_ptr,
    out_ptr,
    table_stride,
    buffer_stride,
    num_injected,
    vocab_size,
    embed_scale,
    INDEX_BLOCKS: tl.constexpr,
    INDEX_BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK).to(tl.int64)
    inside = column < WIDTH
    token = tl.load(ids_ptr + row)
    # An id out of range is not followed: it may stand at an injected row, else the row is NaN.
    known = (token >= 0) & (token < vocab_size)
    table_row_ptr = table_ptr + tl.where(known, token, 0) * table_stride
    first = tl.load(table_row_ptr + column, mask=inside, other=0.0)
    found = tl.full((INDEX_BLOCK,), -1, tl.int32)
    for start in range(0, INDEX_BLOCKS * INDEX_BLOCK, INDEX_BLOCK):
        index = start + tl.arange(0, INDEX_BLOCK)
        injected = tl.load(injected_ptr + index, mask=index < num_injected, other=-1)
        found = tl.where(injected == row, index, found)
    injection = tl.max(found, axis=0).to(tl.int64)
    target_ptr = out_ptr + row * WIDTH
    if injection >= 0:
        source_ptr = buffer_ptr + tl.load(buffer_rows_ptr + injection) * buffer_stride
        value = tl.load(source_ptr + column, mask=inside, other=0.0).to(tl.float32)
        write_scaled(value, 1.0, source_ptr, 1, target_ptr, WIDTH, BLOCK)
    else:
        factor = tl.where(known, embed_scale, float("nan"))
        write_scaled(first.to(tl.float32), factor, table_row_ptr, 1, target_ptr, WIDTH, BLOCK)


def embed_inject(
    embedding: Tensor,
    input_ids: Tensor,
    *,
    embed_scale: float = 1.0,
    injected_rows: Tensor | None = None,
    buffer: Tensor | None = None,
    buffer_rows: Tensor | None = None,
) -> Tensor:
    """See `gloss_kernels.reference.embed_inject`; embedding rows must be contiguous.

    A token id out of range gives a row of NaN, where the reference raises; rows out of range are
    not looked for.
    """
    num_tokens, (vocab_size, width) = input_ids.shape[0], embedding.shape
    device, dtype = embedding.device, embedding.dtype
    assert dtype in (torch.float32, torch.bfloat16, torch.float16)
    assert embedding.stride(1) == 1 or width == 1
    check_indices(input_ids, num_tokens, device)
    num_injected, indices, source, source_rows = 0, input_ids, embedding, input_ids
    if injected_rows is not None:
        assert buffer is not None and buffer_rows is not None
        num_injected, indices = injected_rows.shape[0], injected_rows
        source, source_rows = buffer, buffer_rows
        check_indices(indices, num_injected, device)
        check_indices(source_rows, num_injected, device)
        assert source.ndim == 2 and source.shape[1] == width and source.device == device
        assert source.dtype == dtype and (source.stride(1) == 1 or width == 1)
    out = torch.empty(num_tokens, width, dtype=dtype, device=device)
    if num_tokens == 0:
        return out
    block = row_block(width)
    _embed_inject_kernel[(num_tokens,)](
        embedding,
        input_ids,
        indices,
        source,
        source_rows,
        out,
        embedding.stride(0),
        source.stride(0),
        num_injected,
        vocab_size,
        _rounded(embed_scale, dtype),
        INDEX_BLOCKS=triton.cdiv(num_injected, INDEX_BLOCK),
        INDEX_BLOCK=INDEX_BLOCK,
        WIDTH=width,
        BLOCK=block,
        num_warps=row_warps(block),
    )
    return out


def _rounded(factor: float, dtype: torch.dtype) -> float:
    """A host number at a type's precision; no device is asked."""
    return float(torch.tensor(factor, dtype=dtype, device="cpu"))
