"""One query per sequence against the shared prefix and the sequence's own pages.

    out_b = softmax(q_b [K_prefix ; K_b]^T * scale) [V_prefix ; V_b]

A query at position p sees keys at positions kv > p - window, inside the prefix too. Unique bytes
read: the prefix once, the private keys and values of every sequence once, the queries once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_kernels.reference.attention import two_part_attention, window_mask


def _gather(cache: Tensor, block_table: Tensor) -> Tensor:
    """Private rows [num_kv_heads * n, pages * page_size, head_dim] of a paged cache."""
    _, num_kv_heads, page_size, head_dim = cache.shape
    n, num_pages = block_table.shape
    heads = torch.arange(num_kv_heads, device=cache.device).view(-1, 1, 1)
    rows = (block_table.unsqueeze(0) * num_kv_heads + heads).view(-1)
    gathered = cache.view(-1, page_size * head_dim).index_select(0, rows)
    return gathered.view(num_kv_heads * n, num_pages * page_size, head_dim)


def paged_decode_attention(
    queries: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    private_lens: Tensor,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    max_private_len: int,
) -> Tensor:
    """Attend for one decode step.

    Args:
        queries: [n, num_heads, head_dim].
        key_cache, value_cache: [num_pages, num_kv_heads, page_size, head_dim]; the current
            token's key and value are already stored.
        block_table: [n, max_pages] int64; private pages in order. Entries past a sequence's length
            may be anything valid.
        private_lens: [n] int64 private keys of each sequence, the current one included.
        prefix: shared keys and values, each [num_kv_heads, prefix_len, head_dim], or None.
        scale: factor on the scores.
        window: sliding window in tokens, or None.
        max_private_len: host bound on `private_lens`.

    Returns:
        [n, num_heads, head_dim] in the dtype of `queries`.
    """
    n, num_heads, head_dim = queries.shape
    _, num_kv_heads, page_size, _ = key_cache.shape
    num_pages = -(-max_private_len // page_size)
    pages = block_table[:, :num_pages]
    prefix_len = 0 if prefix is None else prefix[0].shape[1]
    index = torch.arange(num_pages * page_size, device=queries.device)
    lens = private_lens.unsqueeze(1)
    mask = window_mask(lens - 1, index, window, index < lens)[:, None, :]
    prefix_mask = None
    if prefix is not None and window is not None:
        at = torch.arange(prefix_len, device=queries.device)
        prefix_mask = window_mask(prefix_len + lens - 1, at, window, at >= 0)[:, None, :]
    grouped = queries.view(n, num_kv_heads, -1, head_dim).transpose(0, 1)
    keys, values = _gather(key_cache, pages), _gather(value_cache, pages)
    out = two_part_attention(grouped, keys, values, mask, prefix, prefix_mask, scale)
    return out.transpose(0, 1).reshape(n, num_heads, head_dim).to(queries.dtype)
