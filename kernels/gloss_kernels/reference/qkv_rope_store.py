"""From the packed projection to rotated queries and keys, with keys and values stored.

    q, k, v  = split(qkv)
    q, k     = rms_norm(q), rms_norm(k)                     (only with q/k norm, over head_dim)
    x       <- x * cos + swap(x) * sin                      swap exchanges the halves of a head,
                                                            sin is negative for the first half
    key_cache[page, :, offset], value_cache[page, :, offset] <- k, v

Reads qkv, cosines and sines once; writes q, and k and v into their pages.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _rotate(heads: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate [num_tokens, heads, head_dim] by cos_sin [num_tokens, 2, head_dim], float32."""
    cos, sin = cos_sin.unsqueeze(2).unbind(dim=1)
    first, second = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((second, first), dim=-1), sin)


def _normalise(
    heads: Tensor,
    weights: tuple[Tensor, Tensor],
    counts: tuple[int, int],
    eps: float,
    offset: float,
) -> Tensor:
    """RMS norm of query and key heads at once, each kind with its own weight."""
    dtype, head_dim = heads.dtype, heads.shape[-1]
    normed = F.rms_norm(heads.float(), (head_dim,), None, eps)
    rows = [w.float().expand(count, head_dim) for w, count in zip(weights, counts, strict=True)]
    return (normed * (torch.cat(rows) + offset)).to(dtype)


def qkv_rope_store(
    qkv: Tensor,
    cos_sin: Tensor,
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
        cos_sin: [num_tokens, 2, head_dim] float32, cosines, then sines with those of the first
            half negative: the rows of a rotary table at the tokens' positions.
        q_norm_weight, k_norm_weight: [head_dim], both or neither.
        key_cache, value_cache: [num_pages, num_kv_heads, page_size, head_dim], or None.
        slot_mapping: [2, num_tokens] int64, page and offset of each token. Rows that only pad a
            batch point into page 0, which belongs to nobody.

    Returns:
        q [num_tokens, num_heads, head_dim], k and v [num_tokens, num_kv_heads, head_dim].
    """
    num_tokens = qkv.shape[0]
    heads = qkv.view(num_tokens, num_heads + 2 * num_kv_heads, -1)
    rotating, values = heads.split((num_heads + num_kv_heads, num_kv_heads), dim=1)
    if q_norm_weight is not None and k_norm_weight is not None:
        weights, counts = (q_norm_weight, k_norm_weight), (num_heads, num_kv_heads)
        rotating = _normalise(rotating, weights, counts, norm_eps, norm_offset)
    rotated = _rotate(rotating.float(), cos_sin).to(qkv.dtype)
    queries, keys = rotated.split((num_heads, num_kv_heads), dim=1)
    if key_cache is not None:
        assert value_cache is not None and slot_mapping is not None
        page, offset = slot_mapping.unbind(0)
        key_cache[page, :, offset] = keys
        value_cache[page, :, offset] = values
    return queries, keys, values
