"""From the packed projection to rotated queries and keys, with keys and values stored.

    q, k, v  = split(qkv)
    q, k     = rms_norm(q), rms_norm(k)                     (only with q/k norm, over head_dim)
    [a | b] <- [a cos - b sin | b cos + a sin]              angle = position * inv_freq, per half
    key_cache[page, :, offset], value_cache[page, :, offset] <- k, v

Reads qkv and one row of the table per token; writes q, and k and v into their pages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_kernels.reference.rms_norm import rms_norm


def _rotate(heads: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate [num_tokens, heads, head_dim] by cos_sin [num_tokens, 1, 2, head_dim / 2]."""
    cos, sin = cos_sin[:, :, 0], cos_sin[:, :, 1]
    first, second = heads.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(heads.dtype)


def qkv_rope_store(
    qkv: Tensor,
    positions: Tensor,
    cos_sin_table: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
    norm_offset: float = 0.0,
    key_cache: Tensor | None = None,
    value_cache: Tensor | None = None,
    slot_mapping: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split, normalise, rotate and store one block's projections.

    Args:
        qkv: [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim], bias already added.
        positions: [num_tokens] int64 absolute positions.
        cos_sin_table: [max_positions, 2, head_dim / 2] float32.
        q_norm_weight, k_norm_weight: [head_dim], both or neither.
        key_cache, value_cache: [num_pages, num_kv_heads, page_size, head_dim], or None.
        slot_mapping: [num_tokens] int64, page * page_size + offset of each token. Rows that only
            pad a batch point into page 0, which belongs to nobody.

    Returns:
        q [num_tokens, num_heads, head_dim], k and v [num_tokens, num_kv_heads, head_dim].
    """
    num_tokens = qkv.shape[0]
    heads = qkv.view(num_tokens, num_heads + 2 * num_kv_heads, -1)
    values = heads[:, num_heads + num_kv_heads :]
    cos_sin = cos_sin_table.index_select(0, positions).unsqueeze(1)
    if q_norm_weight is None or k_norm_weight is None:
        rotated = _rotate(heads[:, : num_heads + num_kv_heads], cos_sin)
        queries, keys = rotated[:, :num_heads], rotated[:, num_heads:]
    else:
        queries = rms_norm(heads[:, :num_heads], q_norm_weight, norm_eps, offset=norm_offset)
        keys = heads[:, num_heads : num_heads + num_kv_heads]
        keys = rms_norm(keys, k_norm_weight, norm_eps, offset=norm_offset)
        queries, keys = _rotate(queries, cos_sin), _rotate(keys, cos_sin)
    if key_cache is not None:
        assert value_cache is not None and slot_mapping is not None
        _store(key_cache, keys, slot_mapping)
        _store(value_cache, values, slot_mapping)
    return queries, keys, values


def _store(cache: Tensor, rows: Tensor, slot_mapping: Tensor) -> None:
    """Write rows [num_tokens, num_kv_heads, head_dim] to their slots of a paged cache."""
    page_size = cache.shape[2]
    cache[slot_mapping // page_size, :, slot_mapping % page_size] = rows
