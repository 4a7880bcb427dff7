"""Decode attention on a GPU: one query per sequence against a shared prefix and its own pages.

    s_j = q . k_j * scale,   out = sum_j exp(s_j) v_j / sum_j exp(s_j)   over seen positions j

Whoever holds a row's softmax as far as it has come, (peak, total, acc), can go on
(`partial_softmax`), so the work is cut up in one of two ways, by shape alone (`decode_cut`):

- Large batches. `_prefix_kernel`: a program packs the query heads of several sequences, 64 rows,
  against one head's prefix, which is so read once for all of them, and stores the three for every
  row. `_private_kernel`, a program per sequence and KV head, starts from them, goes through the
  sequence's own pages and writes the result.
- Small batches. `_private_kernel` goes through the prefix too: one launch.

In both, `_private_kernel` may cut a sequence's keys into splits; then these store their three, and
`_merge_kernel` adds them up. Loops are bounded by lengths read on the device. What a window hides
is skipped, and no page or table entry past a length is read.

Bytes: the prefix once (small batches: once a sequence, from the L2 cache), every private key and
value once, queries once, the result once; between launches 4 bytes a feature of the result, there
and back, which stay in L2.

Arithmetic is float32, apart from 16-bit inputs: they enter the tensor cores as they are, and
exp(s - peak) is rounded to their type before it multiplies the values (total sums it unrounded). A
row depends on its own sequence, the prefix and the cut alone: others in the batch change no bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.decode_cut import Cut, choose_cut
from gloss_kernels.launch import next_power_of_2, num_multiprocessors, result_like
from gloss_kernels.partial_softmax import absorb, partial_memory
from gloss_kernels.reference.decode_plan import DecodePlan

_LOG2_E = 1.4426950408889634
_UNBOUNDED = 1 << 30
"""The window of a layer without one."""
_TILE_ROWS = 64
"""Rows of a prefix program: the least that Hopper's matrix instructions take. Larger tiles would
leave multiprocessors idle (256 sequences of Qwen2.5-7B make 116 programs of 64 rows)."""


@triton.jit(do_not_specialize=["n", "prefix_len", "window"])
def _prefix_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    lens_ptr,
    acc_ptr,
    stats_ptr,
    query_stride,
    head_stride,
    n,
    prefix_len,
    window,
    log2_scale,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    SEQUENCES: tl.constexpr = ROWS // GROUP
    kv_head = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, ROWS)
    sequence = tl.program_id(0).to(tl.int64) * SEQUENCES + row // GROUP
    head = kv_head * GROUP + row % GROUP
    real = (row < SEQUENCES * GROUP) & (sequence < n)
    index = tl.arange(0, WIDTH)
    inside = index < HEAD_DIM
    at_query = sequence[:, None] * query_stride + head[:, None] * head_stride + index
    mask = real[:, None] & inside
    queries = tl.load(query_ptr + at_query, mask=mask, other=0.0)
    lens = tl.load(lens_ptr + sequence, mask=real, other=1 << 30).to(tl.int32)
    first = prefix_len + lens - window
    # The least of the tile, down to a block's edge, so that no row's blocks depend on another row.
    start = tl.maximum(tl.min(first, axis=0), 0) // BLOCK * BLOCK

    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for block in range(start, prefix_len, BLOCK):
        at = block + tl.arange(0, BLOCK)
        offsets = (kv_head * prefix_len + at)[:, None] * HEAD_DIM + index
        mask_keys = (at < prefix_len)[:, None] & inside
        keys = tl.load(key_ptr + offsets, mask=mask_keys, other=0.0)
        values = tl.load(value_ptr + offsets, mask=mask_keys, other=0.0)
        seen = (at < prefix_len) & (at >= first[:, None])
        peak, total, acc = absorb(queries, keys, values, seen, peak, total, acc, log2_scale)

    out_row = sequence * (NUM_KV_HEADS * GROUP) + head
    tl.store(acc_ptr + out_row[:, None] * HEAD_DIM + index, acc, mask=mask)
    tl.store(stats_ptr + out_row * 2, peak, mask=real)
    tl.store(stats_ptr + out_row * 2 + 1, total, mask=real)


@triton.jit(do_not_specialize=["table_stride", "n", "prefix_len", "window"])
def _private_kernel(
    query_ptr,
    prefix_key_ptr,
    prefix_value_ptr,
    key_ptr,
    value_ptr,
    table_ptr,
    lens_ptr,
    prefix_acc_ptr,
    prefix_stats_ptr,
    acc_ptr,
    stats_ptr,
    out_ptr,
    query_stride,
    head_stride,
    table_stride,
    n,
    prefix_len,
    window,
    log2_scale,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    READS_PREFIX: tl.constexpr,
    RESUMES: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    kv_head = (tl.program_id(0) % NUM_KV_HEADS).to(tl.int64)
    sequence = (tl.program_id(0) // NUM_KV_HEADS).to(tl.int64)
    split = tl.program_id(1)
    row = tl.arange(0, ROWS)
    real = row < GROUP
    head = kv_head * GROUP + row
    index = tl.arange(0, WIDTH)
    inside = index < HEAD_DIM
    mask = real[:, None] & inside
    at_query = sequence * query_stride + head[:, None] * head_stride + index
    queries = tl.load(query_ptr + at_query, mask=mask, other=0.0)
    out_row = sequence * (NUM_KV_HEADS * GROUP) + head

    # Absolute positions that this program goes through; its sequence's length alone divides them.
    end = prefix_len + tl.load(lens_ptr + sequence).to(tl.int32)
    start = tl.maximum(end - window, 0 if READS_PREFIX else prefix_len)
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(end - start, BLOCK), SPLITS) * BLOCK
        start += split * share
        end = tl.minimum(end, start + share)

    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    if RESUMES:
        mine = row < tl.where(split == 0, GROUP, 0)
        peak = tl.load(prefix_stats_ptr + out_row * 2, mask=mine, other=float("-inf"))
        total = tl.load(prefix_stats_ptr + out_row * 2 + 1, mask=mine, other=0.0)
        at_acc = out_row[:, None] * HEAD_DIM + index
        acc = tl.load(prefix_acc_ptr + at_acc, mask=mine[:, None] & inside, other=0.0)
    for block in range(start, end, BLOCK):
        at = block + tl.arange(0, BLOCK)
        seen = at < end
        private = at - prefix_len
        own = seen & (private >= 0)
        page = tl.load(
            table_ptr + sequence * table_stride + private // PAGE_SIZE, mask=own, other=0
        )
        slot = (page * NUM_KV_HEADS + kv_head) * PAGE_SIZE + private % PAGE_SIZE
        offsets = slot[:, None] * HEAD_DIM + index
        at_keys, at_values = key_ptr + offsets, value_ptr + offsets
        if READS_PREFIX:
            # Chosen as whole tiles: of chosen rows Triton 3.9 forgets that they are aligned, and
            # then copies nothing ahead.
            shared = (kv_head * prefix_len + at)[:, None] * HEAD_DIM + index
            at_keys = tl.where(own[:, None], at_keys, prefix_key_ptr + shared)
            at_values = tl.where(own[:, None], at_values, prefix_value_ptr + shared)
        mask_keys = seen[:, None] & inside
        keys = tl.load(at_keys, mask=mask_keys, other=0.0)
        values = tl.load(at_values, mask=mask_keys, other=0.0)
        peak, total, acc = absorb(queries, keys, values, seen, peak, total, acc, log2_scale)

    if SPLITS > 1:
        part = (split.to(tl.int64) * n * NUM_KV_HEADS * GROUP) + out_row
        tl.store(acc_ptr + part[:, None] * HEAD_DIM + index, acc, mask=mask)
        tl.store(stats_ptr + part * 2, peak, mask=real)
        tl.store(stats_ptr + part * 2 + 1, total, mask=real)
    else:
        out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_row[:, None] * HEAD_DIM + index, out, mask=mask)


@triton.jit
def _merge_kernel(
    acc_ptr,
    stats_ptr,
    out_ptr,
    SPLITS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    there = part < SPLITS
    at = part * tl.num_programs(0).to(tl.int64) + row
    peak = tl.load(stats_ptr + at * 2, mask=there, other=float("-inf"))
    total = tl.load(stats_ptr + at * 2 + 1, mask=there, other=0.0)
    index = tl.arange(0, WIDTH)
    inside = index < HEAD_DIM
    offsets = at[:, None] * HEAD_DIM + index
    acc = tl.load(acc_ptr + offsets, mask=there[:, None] & inside, other=0.0)
    # One split saw the current key; -inf all the same where every score is NaN, as in acc.
    largest = tl.max(peak, axis=0)
    weights = tl.exp2(peak - tl.where(largest == float("-inf"), 0.0, largest))
    out = tl.sum(acc * weights[:, None], axis=0) / tl.sum(total * weights, axis=0)
    tl.store(out_ptr + row * HEAD_DIM + index, out.to(out_ptr.dtype.element_ty), mask=inside)


def paged_decode_attention(
    queries: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    plan: DecodePlan,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    out: Tensor | None = None,
) -> Tensor:
    """See `gloss_kernels.reference.paged_decode_attention`.

    Caches, prefix and lengths must be contiguous, and so must the last dimension of queries and
    table. Lengths are at least 1. Pages that nobody holds may hold anything.
    """
    prefix_len = 0 if prefix is None else prefix[0].shape[1]
    if len(plan) == 0:
        return result_like(queries, out)
    cut = choose_cut(
        plan,
        row_bytes=_width(queries) * queries.element_size(),
        prefix_len=prefix_len,
        window=window,
        multiprocessors=num_multiprocessors(queries.device),
    )
    return attend_in_cut(
        cut,
        queries,
        key_cache,
        value_cache,
        plan,
        prefix=prefix,
        scale=scale,
        window=window,
        out=out,
    )


def attend_in_cut(
    cut: Cut,
    queries: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    plan: DecodePlan,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    out: Tensor | None = None,
) -> Tensor:
    """The same, for at least one sequence, cut up as told."""
    _check(queries, key_cache, value_cache, plan, prefix)
    n, num_heads, head_dim = queries.shape
    num_kv_heads, group = plan.num_kv_heads, num_heads // plan.num_kv_heads
    if prefix is not None and prefix[0].shape[1] == 0:
        prefix = None
    window = _UNBOUNDED if window is None else window
    width = _width(queries)
    shape = {"NUM_KV_HEADS": num_kv_heads, "GROUP": group, "HEAD_DIM": head_dim, "WIDTH": width}
    numbers = (n, plan.prefix_len if prefix is not None else 0, window, scale * _LOG2_E)
    out = result_like(queries, out)
    shares = prefix is not None and cut.shares_prefix
    begun = partial_memory(out, 1) if shares else (out, out)
    parts = partial_memory(out, cut.splits) if cut.splits > 1 else (out, out)
    keys, values = (key_cache, value_cache) if prefix is None else prefix
    strides = queries.stride()[:2]
    if shares:
        rows = next_power_of_2(group, _TILE_ROWS)
        grid = (triton.cdiv(n, rows // group), num_kv_heads)
        _prefix_kernel[grid](
            queries, keys, values, plan.private_lens, *begun, *strides, *numbers, **shape,
            ROWS=rows, BLOCK=cut.prefix_block,
            num_warps=8 if width > 128 else 4, num_stages=2,
        )  # fmt: skip
    _private_kernel[(n * num_kv_heads, cut.splits)](
        queries, keys, values, key_cache, value_cache, plan.block_table, plan.private_lens,
        *begun, *parts, out, *strides, plan.block_table.stride(0), *numbers, **shape,
        PAGE_SIZE=plan.page_size, READS_PREFIX=prefix is not None and not shares, RESUMES=shares,
        SPLITS=cut.splits, ROWS=next_power_of_2(group, 16), BLOCK=cut.block,
        num_warps=4, num_stages=cut.stages,
    )  # fmt: skip
    if cut.splits > 1:
        _merge_kernel[(n * num_heads,)](
            *parts, out, SPLITS=cut.splits, HEAD_DIM=head_dim, WIDTH=width,
            PARTS=next_power_of_2(cut.splits), num_warps=2,
        )  # fmt: skip
    return out


def _width(queries: Tensor) -> int:
    """Features of a head as the kernels hold them; 16 at least, for the tensor cores."""
    return next_power_of_2(queries.shape[2], 16)


def _check(
    queries: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    plan: DecodePlan,
    prefix: tuple[Tensor, Tensor] | None,
) -> None:
    n, num_heads, head_dim = queries.shape
    assert n == len(plan) and num_heads % plan.num_kv_heads == 0 and queries.stride(2) == 1
    cache_shape = (plan.num_kv_heads, plan.page_size, head_dim)
    assert key_cache.shape[1:] == cache_shape and value_cache.shape == key_cache.shape
    read = [key_cache, value_cache]
    if prefix is not None:
        assert all(part.shape == (*cache_shape[:1], plan.prefix_len, head_dim) for part in prefix)
        read += prefix
    for tensor in read:
        assert tensor.is_contiguous()
        assert tensor.dtype == queries.dtype and tensor.device == queries.device
    table, lens = plan.block_table, plan.private_lens
    assert table.dtype == lens.dtype == torch.int64 and lens.shape == (n,)
    assert table.device == lens.device == queries.device
    assert lens.is_contiguous() and (table.stride(1) == 1 or table.shape[1] == 1)
