"""Causal attention of packed sequences behind a shared prefix, on a GPU.

    out_t = softmax(q_t [K_prefix ; K_{s..t}]^T * scale) [V_prefix ; V_{s..t}],   s: start of t's
    sequence

One program takes a tile of consecutive tokens for one KV head. The rows of its matrix products are
all pairs of token and query head, 18 tokens x 7 heads = 126 of 128 rows, so a key is loaded once
for every head that reads it. A tile needs no alignment to sequences: the keys of tokens t0 .. t1
stand in rows start(t0) .. t1, and a mask keeps sequences apart. So the short suffixes of many
sequences fill tiles together, and a long text is ordinary flash attention. One online softmax runs
over two phases, the prefix's keys, once for the whole tile, then the packed ones. Key blocks that
no row of the tile sees, before the window, are not loaded.

Reads queries once, and for each tile the prefix, the tile's own keys and values and those of the
first token's sequence before it; tiles of a KV head share these in L2. Writes the output once.
16-bit inputs enter the products as they are and sums are float32; the weights are rounded to the
type of the values before the second product.

A weight of 0 does not hide a value that is not finite, 0 x NaN = NaN, and the neighbours in a tile
must stay apart. Rather than clean every block of values, which costs all of them the way through
registers, a tile whose sums came out NaN is computed again with cleaned values.
"""

from __future__ import annotations

from math import e, log2
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.launch import INTERPRETED, next_power_of_2, num_multiprocessors, result_like
from gloss_kernels.packed_plan import PackedPlan


@triton.jit
def _fold(
    queries,
    keys_ptr,
    values_ptr,
    key_stride,
    value_stride,
    key,
    end,
    seen,
    sums,
    peak,
    total,
    factor,
    WIDTH: tl.constexpr,
    CLEAN: tl.constexpr,
):
    """Take a block of keys, rows `key` below `end`, into the online softmax of every row.

    `peak` is the largest score so far times `factor`, which makes weights powers of 2; it starts
    finite, so a row that sees no key yet has weights of 0. With CLEAN a key whose value is not
    finite makes the weights of the rows that see it NaN, and reaches no others.
    """
    column = tl.arange(0, queries.shape[1])
    inside = (key < end)[:, None] & (column < WIDTH)[None, :]
    row = key.to(tl.int64)[:, None]
    keys = tl.load(keys_ptr + row * key_stride + column[None, :], mask=inside, other=0.0)
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    if CLEAN:
        # Read twice, so that the tile of values never lives in registers.
        values = tl.load(values_ptr + row * value_stride + column[None, :], mask=inside, other=0.0)
        finite = tl.abs(values.to(tl.float32)) < float("inf")
        sound = tl.min(finite.to(tl.int32), axis=1) > 0
        scores = tl.where(sound[None, :], scores, float("nan"))
        inside = inside & sound[:, None]
    values = tl.load(values_ptr + row * value_stride + column[None, :], mask=inside, other=0.0)
    scores = tl.where(seen, scores, float("-inf"))
    bounds = scores
    if INTERPRETED:  # numpy, which passes over NaN too, warns of a row with nothing else.
        bounds = tl.where(scores == scores, scores, float("-inf"))
    peak_now = tl.maximum(peak, tl.max(bounds, axis=1) * factor)
    weights = tl.exp2(scores * factor - peak_now[:, None])
    decay = tl.exp2(peak - peak_now)
    total = total * decay + tl.sum(weights, axis=1)
    sums = tl.dot(weights.to(values.dtype), values, sums * decay[:, None], input_precision="ieee")
    return sums, peak_now, total


@triton.jit
def _attend(
    queries,
    prefix,
    packed,
    where,
    factor,
    HAS_PREFIX: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    CLEAN: tl.constexpr,
):
    """Sums of weighted values, and of the weights, of a tile's rows."""
    prefix_keys_ptr, prefix_values_ptr, prefix_first, prefix_len, prefix_low = prefix
    keys_ptr, values_ptr, key_stride, value_stride = packed
    first, end, low, token = where
    sums = tl.zeros(queries.shape, tl.float32)
    peak = tl.full([queries.shape[0]], -1e38, tl.float32)
    total = tl.zeros([queries.shape[0]], tl.float32)
    if HAS_PREFIX:
        for at in tl.range(prefix_first, prefix_len, BLOCK_N, num_stages=STAGES):
            key = at + tl.arange(0, BLOCK_N)
            seen = (key < prefix_len)[None, :]
            if HAS_WINDOW:
                seen = seen & (key[None, :] >= prefix_low[:, None])
            sums, peak, total = _fold(
                queries, prefix_keys_ptr, prefix_values_ptr, WIDTH, WIDTH, key, prefix_len,
                seen, sums, peak, total, factor, WIDTH, CLEAN,
            )  # fmt: skip
    for at in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        key = at + tl.arange(0, BLOCK_N)
        seen = (key[None, :] >= low[:, None]) & (key[None, :] <= token[:, None])
        sums, peak, total = _fold(
            queries, keys_ptr, values_ptr, key_stride, value_stride, key, end,
            seen, sums, peak, total, factor, WIDTH, CLEAN,
        )  # fmt: skip
    return sums, total


@triton.jit(do_not_specialize=["num_tokens", "prefix_len", "window"])
def _packed_attention_kernel(
    queries_ptr,
    keys_ptr,
    values_ptr,
    out_ptr,
    starts_ptr,
    prefix_keys_ptr,
    prefix_values_ptr,
    query_stride,
    key_stride,
    value_stride,
    num_tokens,
    prefix_len,
    window,
    factor,
    HAS_PREFIX: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    # The last tiles of a long text read most keys, so they start first.
    begin = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS
    end = tl.minimum(begin + TOKENS, num_tokens)
    kv_head = tl.program_id(1).to(tl.int64)
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    # Rows past the tile's last token repeat it and are not stored.
    real = begin + row // GROUP < end
    token = tl.minimum(begin + row // GROUP, end - 1)
    head = kv_head * GROUP + row % GROUP
    inside = (column < WIDTH)[None, :]
    places = queries_ptr + token.to(tl.int64) * query_stride + head * WIDTH
    queries = tl.load(places[:, None] + column[None, :], mask=inside, other=0.0)

    # The first key each row sees, among the packed ones and in the prefix.
    low = tl.load(starts_ptr + token)
    prefix_low, prefix_first = low, 0
    if HAS_WINDOW:
        prefix_low = prefix_len + token - low - window + 1
        prefix_first = tl.maximum(tl.min(prefix_low, axis=0), 0)
        low = tl.maximum(low, token - window + 1)
    first = tl.min(low, axis=0)
    prefix_keys_ptr += kv_head * prefix_len * WIDTH
    prefix_values_ptr += kv_head * prefix_len * WIDTH
    keys_ptr += kv_head * WIDTH
    values_ptr += kv_head * WIDTH
    where = (first, end, low, token)
    behind = (prefix_keys_ptr, prefix_values_ptr, prefix_first, prefix_len, prefix_low)
    packed = (keys_ptr, values_ptr, key_stride, value_stride)
    sums, total = _attend(
        queries, behind, packed, where, factor,
        HAS_PREFIX, HAS_WINDOW, WIDTH, BLOCK_N, STAGES, False,
    )  # fmt: skip
    if tl.max(tl.max((sums != sums).to(tl.int32), axis=1), axis=0) > 0:
        sums, total = _attend(
            queries, behind, packed, where, factor,
            HAS_PREFIX, HAS_WINDOW, WIDTH, BLOCK_N, 1, True,
        )  # fmt: skip
    out = (sums / total[:, None]).to(out_ptr.dtype.element_ty)
    num_heads = tl.num_programs(1) * GROUP
    places = out_ptr + (token.to(tl.int64) * num_heads + head) * WIDTH
    tl.store(places[:, None] + column[None, :], out, mask=real[:, None] & inside)


def packed_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: PackedPlan,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    out: Tensor | None = None,
) -> Tensor:
    """See `gloss_kernels.reference.packed_attention`.

    The heads of a token must stand next to each other, the prefix must be contiguous, `scale`
    positive, and a KV head may serve 128 query heads at most. A sequence's own rows are NaN where a
    value that they see is not finite.
    """
    num_tokens, num_heads, head_dim = queries.shape
    num_kv_heads, group = keys.shape[1], num_heads // keys.shape[1]
    assert group * num_kv_heads == num_heads and 1 <= group <= 128
    assert scale > 0 and (window is None or window > 0)
    prefix_len = 0 if prefix is None else prefix[0].shape[1]
    _check(queries, keys, values, plan, prefix or ())
    out = result_like(queries, out)
    if num_tokens == 0:
        return out
    tile = _tile(queries, num_kv_heads)
    grid = (triton.cdiv(num_tokens, tile.tokens), num_kv_heads)
    prefix_keys, prefix_values = (keys, values) if prefix is None else prefix
    _packed_attention_kernel[grid](
        queries,
        keys,
        values,
        out,
        plan.starts,
        prefix_keys,
        prefix_values,
        queries.stride(0),
        keys.stride(0),
        values.stride(0),
        num_tokens,
        prefix_len,
        window or 0,
        scale * log2(e),
        HAS_PREFIX=prefix is not None,
        HAS_WINDOW=window is not None,
        GROUP=group,
        WIDTH=head_dim,
        TOKENS=tile.tokens,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.keys,
        BLOCK_D=next_power_of_2(head_dim, 16),
        num_warps=tile.warps,
        STAGES=tile.stages,
    )
    return out


def _check(
    queries: Tensor, keys: Tensor, values: Tensor, plan: PackedPlan, prefix: tuple[Tensor, ...]
) -> None:
    num_tokens, _, head_dim = queries.shape
    num_kv_heads = keys.shape[1]
    assert num_tokens == plan.num_tokens and plan.cu_seqlens.device == queries.device
    assert keys.shape == values.shape == (num_tokens, num_kv_heads, head_dim)
    for packed in (queries, keys, values):
        assert packed.stride(2) == 1 and (packed.shape[1] == 1 or packed.stride(1) == head_dim)
    for part in prefix:
        assert part.shape == (num_kv_heads, prefix[0].shape[1], head_dim) and part.is_contiguous()
    for tensor in (keys, values, *prefix):
        assert tensor.dtype == queries.dtype and tensor.device == queries.device


class _Tile(NamedTuple):
    """What one program takes.

    Attributes:
        rows, keys: of its matrix products.
        tokens: of the packed ones; their query heads make the rows.
        warps, stages: of the program and of its loads.
    """

    rows: int
    keys: int
    tokens: int
    warps: int
    stages: int


def _tile(queries: Tensor, num_kv_heads: int) -> _Tile:
    """The tile for a shape.

    128 rows read half as many keys from L2 as 64, which a grid too small for the device takes.
    Chosen so that sums and a block of scores stay in registers, not swept: no GPU was at hand.
    """
    num_tokens, num_heads, head_dim = queries.shape
    group, least = num_heads // num_kv_heads, next_power_of_2(num_heads // num_kv_heads)
    if queries.dtype == torch.float32:
        # Without tensor cores whole operands live in registers; float32 is for tests.
        rows = max(32, least)
        return _Tile(rows, 16, rows // group, warps=8, stages=1)
    programs = triton.cdiv(num_tokens, 128 // group) * num_kv_heads
    if programs >= num_multiprocessors(queries.device) or least > 64:
        return _Tile(128, 64 if head_dim <= 128 else 32, 128 // group, warps=8, stages=2)
    return _Tile(64, 32 if head_dim <= 128 else 16, 64 // group, warps=4, stages=2)
