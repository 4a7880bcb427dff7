"""The arithmetic that both attention operations share: a shared prefix, then private keys.

    out = softmax([q K_prefix^T | q K_private^T] * scale + mask) [V_prefix ; V_private]

One softmax over both parts is the definition; a kernel may compute the parts apart and merge them
by log-sum-exp. The prefix is multiplied once for all rows, so its keys are never copied per row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_mask(
    query_positions: Tensor, key_positions: Tensor, window: int | None, valid: Tensor
) -> Tensor:
    """Additive mask: 0 where `valid` and key > query - window, else -inf.

    Args:
        query_positions, key_positions: int64, broadcastable against each other.
        window: sliding window in tokens, or None.
        valid: bool, broadcastable to the result.

    Returns:
        float32 of the broadcast shape.
    """
    if window is not None:
        valid = valid & (key_positions > query_positions - window)
    return torch.zeros(valid.shape, dtype=torch.float32, device=valid.device).masked_fill_(
        ~valid, float("-inf")
    )


def two_part_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    prefix_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Attend over a shared prefix and private keys with one softmax, in float32.

    Args:
        queries: [n, num_kv_heads, rows, head_dim]; rows are the queries that share a KV head.
        keys, values: [n * num_kv_heads, length, head_dim]; may be strided views of a cache.
        mask: additive, broadcastable to [n * num_kv_heads, rows, length].
        prefix: keys and values, each [num_kv_heads, prefix_len, head_dim], or None.
        prefix_mask: additive, broadcastable to [n, num_kv_heads, rows, prefix_len]; None sees all.
        scale: factor on the scores.

    Returns:
        [n, num_kv_heads, rows, head_dim] float32.
    """
    n, num_kv_heads, rows, head_dim = queries.shape
    length, queries = keys.shape[1], queries.float()
    flat = queries.reshape(n * num_kv_heads, rows, head_dim)
    scores = torch.add(mask, torch.bmm(flat, keys.float().transpose(1, 2)), alpha=scale)
    if prefix is None:
        return torch.bmm(scores.softmax(dim=-1), values.float()).view(queries.shape)
    prefix_keys, prefix_values = prefix[0].float(), prefix[1].float()
    prefix_len = prefix_keys.shape[1]
    # Head-major, so that the prefix of each head is one product for all sequences.
    by_head = queries.transpose(0, 1).reshape(num_kv_heads, n * rows, head_dim)
    shared = torch.bmm(by_head, prefix_keys.transpose(1, 2)).mul_(scale)
    shared = shared.view(num_kv_heads, n, rows, prefix_len).transpose(0, 1)
    if prefix_mask is not None:
        shared = shared + prefix_mask
    scores = scores.view(n, num_kv_heads, rows, length)
    probs = torch.cat((shared, scores), dim=-1).softmax(dim=-1)
    over_prefix = probs[..., :prefix_len].transpose(0, 1)
    over_prefix = over_prefix.reshape(num_kv_heads, n * rows, prefix_len)
    out = torch.bmm(over_prefix, prefix_values).view(num_kv_heads, n, rows, head_dim)
    over_private = probs[..., prefix_len:].reshape(n * num_kv_heads, rows, length)
    private = torch.bmm(over_private, values.float()).view(queries.shape)
    return private.add_(out.transpose(0, 1))
