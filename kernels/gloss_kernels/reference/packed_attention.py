"""Causal attention of ragged sequences packed without padding, behind an optional shared prefix.

    out_t = softmax(q_t [K_prefix ; K_{s..t}]^T * scale) [V_prefix ; V_{s..t}],   s: start of t's
    sequence

Serves the AV's suffixes, the AR's texts and whole prompts. Reads the prefix once and every packed
row once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_kernels.reference.attention import two_part_attention, window_mask


def packed_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cu_seqlens: Tensor,
    *,
    max_seqlen: int,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
) -> Tensor:
    """Attend causally inside each packed sequence and to the whole prefix.

    Args:
        queries: [num_tokens, num_heads, head_dim].
        keys, values: [num_tokens, num_kv_heads, head_dim].
        cu_seqlens: [n + 1] int64, starts of the sequences and the end of the last.
        max_seqlen: host bound on the sequence lengths.
        prefix: shared keys and values, each [num_kv_heads, prefix_len, head_dim], standing before
            every sequence, or None.
        scale: factor on the scores.
        window: sliding window in tokens, or None; counts prefix positions too.

    Returns:
        [num_tokens, num_heads, head_dim] in the dtype of `queries`.
    """
    num_tokens, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[1]
    n, group = cu_seqlens.shape[0] - 1, num_heads // num_kv_heads
    rows = None if num_tokens == n * max_seqlen else _padded_rows(cu_seqlens, max_seqlen)
    wide = _pad(queries, rows, n, max_seqlen).view(n, max_seqlen, num_kv_heads, group, head_dim)
    wide = wide.transpose(1, 2).reshape(n, num_kv_heads, max_seqlen * group, head_dim)
    own = [
        _pad(packed, rows, n, max_seqlen).transpose(1, 2).reshape(-1, max_seqlen, head_dim)
        for packed in (keys, values)
    ]
    index = torch.arange(max_seqlen, device=queries.device)
    query_index = index.repeat_interleave(group).unsqueeze(1)
    mask = window_mask(query_index, index, window, index <= query_index).unsqueeze(0)
    prefix_mask = None
    if prefix is not None and window is not None:
        prefix_len = prefix[0].shape[1]
        at = torch.arange(prefix_len, device=queries.device)
        prefix_mask = window_mask(prefix_len + query_index, at, window, at >= 0)
    out = two_part_attention(wide, own[0], own[1], mask, prefix, prefix_mask, scale)
    out = out.view(n, num_kv_heads, max_seqlen, group, head_dim).transpose(1, 2)
    out = out.reshape(n * max_seqlen, num_heads, head_dim).to(queries.dtype)
    return out if rows is None else out.index_select(0, rows)


def _padded_rows(cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Where each packed row stands once every sequence is padded to max_seqlen, [num_tokens]."""
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    sequence = torch.repeat_interleave(lengths)
    within = torch.arange(sequence.shape[0], device=starts.device) - starts[sequence]
    return sequence * max_seqlen + within


def _pad(packed: Tensor, rows: Tensor | None, n: int, max_seqlen: int) -> Tensor:
    """[num_tokens, heads, head_dim] to [n, max_seqlen, heads, head_dim], padded on the right.

    Causality hides the padding from every real query, so it needs no mask of its own.
    """
    if rows is not None:
        blank = packed.new_zeros(n * max_seqlen, *packed.shape[1:])
        packed = blank.index_copy_(0, rows, packed)
    return packed.reshape(n, max_seqlen, *packed.shape[1:])
