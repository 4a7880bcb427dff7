"""From the packed projection to rotated queries and keys, with keys and values stored.

    q, k, v  = split(qkv + bias)
    q, k     = rms_norm(q), rms_norm(k)                     (only with q/k norm, over head_dim)
    x       <- x * cos + swap(x) * sin                      swap exchanges the halves of a head,
                                                            sin is negative for the first half
    key_cache[page, :, offset], value_cache[page, :, offset] <- k, v

Reads qkv, bias, cosines and sines once; writes q, and k and v into their pages.

The bias is added here and not by the projection because Qwen2's key biases are large: projection +
bias rounded to 16 bits before the rotation loses more of the key than the rotation's result rounded
once, and a launch that touches the row anyway adds it for nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _rotate(heads: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate [num_tokens, heads, head_dim] by cos_sin [num_tokens, 2, head_dim], float32."""
    cos, sin = cos_sin.unsqueeze(2).unbind(dim=1)
    return (heads * cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), sin)


def _normalise(
    heads: Tensor,
    weights: tuple[Tensor, Tensor],
    counts: tuple[int, int],
    eps: float,
    offset: float,
) -> Tensor:
    """RMS norm of query and key heads at once, each kind with its own weight; float32."""
    head_dim = heads.shape[-1]
    normed = F.rms_norm(heads, (head_dim,), None, eps)
    rows = [w.float().expand(count, head_dim) for w, count in zip(weights, counts, strict=True)]
    return normed * (torch.cat(rows) + offset)


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
    """Split, normalise, rotate and store one block's projections.

    Arithmetic is float32. Results are rounded to the model's dtype once; with q/k norm also after
    the norm, as the models do.

    Args:
        qkv: [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim].
        cos_sin: [num_tokens, 2, head_dim] float32, cosines, then sines with those of the first
            half negative: the rows of a rotary table at the tokens' positions.
        bias: [(num_heads + 2 * num_kv_heads) * head_dim] of the projections, or None.
        q_norm_weight, k_norm_weight: [head_dim], both or neither.
        key_cache, value_cache: [num_pages, num_kv_heads, page_size, head_dim], or None.
        slot_mapping: [2, num_tokens] int64, page and offset of each token. Rows that only pad a
            batch point into page 0, which belongs to nobody.

    Returns:
        q [num_tokens, num_heads, head_dim], k and v [num_tokens, num_kv_heads, head_dim].
    """
    dtype, num_tokens = qkv.dtype, qkv.shape[0]
    rows = qkv if bias is None else qkv.float() + bias.float()
    total_heads = num_heads + 2 * num_kv_heads
    heads = rows.view(num_tokens, total_heads, rows.shape[1] // total_heads)
    rotating, values = heads.split((num_heads + num_kv_heads, num_kv_heads), dim=1)
    rotating = rotating.float()
    if q_norm_weight is not None and k_norm_weight is not None:
        weights, counts = (q_norm_weight, k_norm_weight), (num_heads, num_kv_heads)
        normed = _normalise(rotating, weights, counts, norm_eps, norm_offset)
        rotating = normed.to(dtype).float()
    rotated = _rotate(rotating, cos_sin).to(dtype)
    queries, keys = rotated.split((num_heads, num_kv_heads), dim=1)
    values = values.to(dtype)
    if key_cache is not None:
        assert value_cache is not None and slot_mapping is not None
        page, offset = slot_mapping.unbind(0)
        key_cache[page, :, offset] = keys
        value_cache[page, :, offset] = values
    return queries, keys, values
