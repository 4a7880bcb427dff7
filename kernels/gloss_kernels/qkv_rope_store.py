"""Bias, norm and rotation of packed projections, keys and values into their pages: one launch.

    q, k, v  = split(qkv + bias)
    q, k     = rms_norm(q), rms_norm(k)                     (only with q/k norm, over head_dim)
    x1, x2  <- x1 * cos - x2 * sin, x2 * cos + x1 * sin     the halves of a head of q or k
    key_cache[page, :, offset], value_cache[page, :, offset] <- k, v

Reads qkv once, cosines of the first and sines of the second half of a table row, and the bias;
writes q, k and v, and k and v again into their pages. A program takes a few heads of one token, of
all three kinds alike, so that one grid covers them. It loads the halves of its heads apart: then
each thread holds both elements that a rotation mixes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.launch import next_power_of_2

_BLOCK_HEADS = 8
"""Heads a program. Chosen, not swept: no GPU was at hand. With 128 wide heads it makes programs of
two warps with 16 bytes of each half a thread, and a few of them already at one token."""


@triton.jit
def _store_halves(row_ptr, first, second, inside, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Store heads at the pointers of their rows, [heads, 1]."""
    column = tl.arange(0, BLOCK)[None, :]
    dtype = row_ptr.dtype.element_ty
    tl.store(row_ptr + column, first.to(dtype), mask=inside)
    tl.store(row_ptr + HALF + column, second.to(dtype), mask=inside)


@triton.jit
def _either(q_weight_ptr, k_weight_ptr, column, is_query, is_key):
    """The norm's weights of query and key heads, each of its own kind."""
    query = tl.load(q_weight_ptr + column, mask=is_query, other=0.0).to(tl.float32)
    return query + tl.load(k_weight_ptr + column, mask=is_key, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["slot_stride"])
def _qkv_rope_store_kernel(
    qkv_ptr,
    bias_ptr,
    cos_sin_ptr,
    q_weight_ptr,
    k_weight_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_ptr,
    qkv_stride,
    slot_stride,
    page_stride,
    head_stride,
    offset_stride,
    eps,
    norm_offset,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_CACHE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (head < NUM_HEADS + 2 * NUM_KV_HEADS) & (column < HALF)
    at = head * (2 * HALF) + column
    row_ptr = qkv_ptr + token * qkv_stride
    first = tl.load(row_ptr + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(row_ptr + HALF + at, mask=inside, other=0.0).to(tl.float32)
    # Loaded for every head, from cache: sharing one row goes through shared memory, with barriers.
    table_ptr = cos_sin_ptr + token * (4 * HALF) + column
    cos = tl.load(table_ptr, mask=inside, other=0.0)
    sin = tl.load(table_ptr + 3 * HALF, mask=inside, other=0.0)
    if HAS_CACHE:  # Here, because no load moves before a store.
        page, offset = tl.load(slot_ptr + token), tl.load(slot_ptr + slot_stride + token)
        slot = page * page_stride + offset * offset_stride
    if HAS_BIAS:
        first += tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
        second += tl.load(bias_ptr + HALF + at, mask=inside, other=0.0).to(tl.float32)

    is_query = inside & (head < NUM_HEADS)
    is_key = inside & (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    is_value = inside & (head >= NUM_HEADS + NUM_KV_HEADS)
    turning1, turning2 = first, second
    if HAS_NORM:
        dtype = qkv_ptr.dtype.element_ty
        total = tl.sum(first * first + second * second, axis=1)[:, None]
        scale = 1.0 / tl.sqrt(total / (2 * HALF) + eps)
        weight1 = _either(q_weight_ptr, k_weight_ptr, column, is_query, is_key) + norm_offset
        weight2 = _either(q_weight_ptr, k_weight_ptr, HALF + column, is_query, is_key) + norm_offset
        # The models round what they norm to their own type before they rotate it.
        turning1 = (first * scale * weight1).to(dtype).to(tl.float32)
        turning2 = (second * scale * weight2).to(dtype).to(tl.float32)
    first = tl.where(is_value, first, turning1 * cos - turning2 * sin)
    second = tl.where(is_value, second, turning2 * cos + turning1 * sin)

    q_row = q_ptr + (token * NUM_HEADS + head) * (2 * HALF)
    _store_halves(q_row, first, second, is_query, HALF, BLOCK)
    key_head = head - NUM_HEADS
    k_row = k_ptr + (token * NUM_KV_HEADS + key_head) * (2 * HALF)
    _store_halves(k_row, first, second, is_key, HALF, BLOCK)
    value_head = key_head - NUM_KV_HEADS
    v_row = v_ptr + (token * NUM_KV_HEADS + value_head) * (2 * HALF)
    _store_halves(v_row, first, second, is_value, HALF, BLOCK)
    if HAS_CACHE:
        key_slot = key_cache_ptr + slot + key_head.to(tl.int64) * head_stride
        _store_halves(key_slot, first, second, is_key, HALF, BLOCK)
        value_slot = value_cache_ptr + slot + value_head.to(tl.int64) * head_stride
        _store_halves(value_slot, first, second, is_value, HALF, BLOCK)


def qkv_rope_store(
    qkv: Tensor,
    cos_sin: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    bias: Tensor | None = None,
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
    norm_offset: float = 0.0,
    key_cache: Tensor | None = None,
    value_cache: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `gloss_kernels.reference.qkv_rope_store`; rows of qkv may be strided.

    The halves of `cos_sin` must hold the same angles, as they do in a rotary table. The caches must
    share their strides, with a contiguous last dimension.
    """
    num_tokens, width = qkv.shape
    head_dim = width // (total_heads := num_heads + 2 * num_kv_heads)
    assert width == total_heads * head_dim and head_dim % 2 == 0 and qkv.stride(1) == 1
    _check_inputs(qkv, head_dim, cos_sin, bias, q_norm_weight, k_norm_weight)
    _check_caches(qkv, (num_kv_heads, head_dim), key_cache, value_cache, slot_mapping)
    queries = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    keys, values = (queries.new_empty(num_tokens, num_kv_heads, head_dim) for _ in range(2))
    if num_tokens == 0:
        return queries, keys, values
    block = next_power_of_2(head_dim // 2)
    block_heads = min(_BLOCK_HEADS, next_power_of_2(total_heads))
    cache_strides = (0, 0, 0) if key_cache is None else key_cache.stride()[:3]
    _qkv_rope_store_kernel[(num_tokens, triton.cdiv(total_heads, block_heads))](
        qkv,
        qkv if bias is None else bias,
        cos_sin,
        qkv if q_norm_weight is None else q_norm_weight,
        qkv if k_norm_weight is None else k_norm_weight,
        queries,
        keys,
        values,
        keys if key_cache is None else key_cache,
        values if value_cache is None else value_cache,
        qkv if slot_mapping is None else slot_mapping,
        qkv.stride(0),
        0 if slot_mapping is None else slot_mapping.stride(0),
        *cache_strides,
        norm_eps,
        norm_offset,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HALF=head_dim // 2,
        HAS_BIAS=bias is not None,
        HAS_NORM=q_norm_weight is not None,
        HAS_CACHE=key_cache is not None,
        BLOCK_HEADS=block_heads,
        BLOCK=block,
        num_warps=max(1, min(8, block_heads * block // 256)),
    )
    return queries, keys, values


def _check_inputs(
    qkv: Tensor,
    head_dim: int,
    cos_sin: Tensor,
    bias: Tensor | None,
    q_norm_weight: Tensor | None,
    k_norm_weight: Tensor | None,
) -> None:
    assert cos_sin.shape == (qkv.shape[0], 2, head_dim) and cos_sin.is_contiguous()
    assert cos_sin.dtype == torch.float32 and cos_sin.device == qkv.device
    assert (q_norm_weight is None) == (k_norm_weight is None)
    for vector, size in (
        (bias, qkv.shape[1]),
        (q_norm_weight, head_dim),
        (k_norm_weight, head_dim),
    ):
        if vector is not None:
            assert vector.shape == (size,) and vector.is_contiguous()
            assert vector.dtype == qkv.dtype and vector.device == qkv.device


def _check_caches(
    qkv: Tensor,
    kv_shape: tuple[int, int],
    key_cache: Tensor | None,
    value_cache: Tensor | None,
    slot_mapping: Tensor | None,
) -> None:
    assert (key_cache is None) == (value_cache is None)
    if key_cache is None or value_cache is None:
        return
    assert key_cache.shape == value_cache.shape and key_cache.stride() == value_cache.stride()
    assert (key_cache.shape[1], key_cache.shape[3]) == kv_shape and key_cache.stride(3) == 1
    assert key_cache.dtype == value_cache.dtype == qkv.dtype
    assert key_cache.device == value_cache.device == qkv.device
    assert slot_mapping is not None and slot_mapping.shape == (2, qkv.shape[0])
    assert slot_mapping.dtype == torch.int64 and slot_mapping.device == qkv.device
    assert slot_mapping.stride(1) == 1 or qkv.shape[0] == 1
