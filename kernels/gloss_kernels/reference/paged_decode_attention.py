"""One query per sequence against the shared prefix and the sequence's own pages.

    out_b = softmax(q_b [K_prefix ; K_b]^T * scale) [V_prefix ; V_b]

A query at position p sees keys at positions kv > p - window, inside the prefix too. Unique bytes
read: the prefix once, the private keys and values of every sequence once, the queries once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_kernels.reference.attention import two_part_attention
from gloss_kernels.reference.decode_plan import DecodePlan


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
    """Attend for one decode step.

    Args:
        queries: [n, num_heads, head_dim].
        key_cache, value_cache: [num_pages, num_kv_heads, page_size, head_dim]; the current
            token's key and value are already stored. Pages that the table names must be finite
            past a sequence's length too (the kernel reads nothing there).
        plan: the step's tables and lengths, for the same n and cache shape.
        prefix: shared keys and values, each [num_kv_heads, prefix_len, head_dim], or None.
        scale: factor on the scores.
        window: sliding window in tokens, or None.
        out: [n, num_heads, head_dim] contiguous, to write the result to; None makes one.

    Returns:
        [n, num_heads, head_dim] in the dtype of `queries`.
    """
    n, num_heads, head_dim = queries.shape
    if n == 0:
        return torch.empty_like(queries) if out is None else out
    private = plan.private_rows
    grouped = private.spread(queries.view(n, plan.num_kv_heads, -1, head_dim))
    mask, prefix_mask = private.masks(window)
    keys, values = private.keys(key_cache), private.keys(value_cache)
    mixed = two_part_attention(grouped, keys, values, mask, prefix, prefix_mask, scale)
    mixed = private.collect(mixed).reshape(n, num_heads, head_dim)
    return mixed.to(queries.dtype) if out is None else out.copy_(mixed)
