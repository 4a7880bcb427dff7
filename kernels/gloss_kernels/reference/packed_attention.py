"""Causal attention of ragged sequences packed without padding, behind an optional shared prefix.

    out_t = softmax(q_t [K_prefix ; K_{s..t}]^T * scale) [V_prefix ; V_{s..t}],   s: start of t's
    sequence

Serves the AV's suffixes, the AR's texts and whole prompts. Reads the prefix once and every packed
row once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gloss_kernels.packed_plan import PackedPlan
from gloss_kernels.reference.attention import two_part_attention

_LONG = 128
"""Rows of the longest sequence from which a CPU attends to one sequence after the other. Padded
together, six of 100 to 600 rows take 14 times as long (272 and 19 ms, 8 heads of 16, one thread),
one of 2,048 takes 11 times; short ones would only pay for the calls (16 of 25: 1.3 and 2.2 ms)."""


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
    """Attend causally inside each packed sequence and to the whole prefix.

    Args:
        queries: [num_tokens, num_heads, head_dim].
        keys, values: [num_tokens, num_kv_heads, head_dim].
        plan: where the sequences are, for the same num_tokens.
        prefix: shared keys and values, each [num_kv_heads, prefix_len, head_dim], standing before
            every sequence, or None.
        scale: factor on the scores.
        window: sliding window in tokens, or None; counts prefix positions too.
        out: [num_tokens, num_heads, head_dim] contiguous, to write the result to; None makes one.

    Returns:
        [num_tokens, num_heads, head_dim] in the dtype of `queries`. What is not finite in one
        sequence never reaches another.
    """
    num_tokens, num_heads, head_dim = queries.shape
    assert num_tokens == plan.num_tokens
    if num_tokens == 0:
        return queries.clone() if out is None else out
    if plan.max_seqlen >= _LONG and queries.device.type == "cpu":
        mixed = _one_by_one(queries, keys, values, plan, prefix, scale, window)
        return mixed.to(queries.dtype) if out is None else out.copy_(mixed)
    num_kv_heads = keys.shape[1]
    n, length, group = len(plan), plan.max_seqlen, num_heads // num_kv_heads
    wide = plan.pad(queries).view(n, length, num_kv_heads, group, head_dim)
    wide = wide.transpose(1, 2).reshape(n, num_kv_heads, length * group, head_dim)
    own = [
        plan.pad(packed).transpose(1, 2).reshape(-1, length, head_dim) for packed in (keys, values)
    ]
    mask, prefix_mask = plan.masks(group, window, 0 if prefix is None else prefix[0].shape[1])
    mixed = two_part_attention(wide, own[0], own[1], mask, prefix, prefix_mask, scale)
    mixed = mixed.view(n, num_kv_heads, length, group, head_dim).transpose(1, 2)
    mixed = plan.unpad(mixed.reshape(n, length, num_heads, head_dim))
    return mixed.to(queries.dtype) if out is None else out.copy_(mixed)


def _one_by_one(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: PackedPlan,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
) -> Tensor:
    """The same without padding, which never holds all scores of a sequence; float32."""
    mixed = torch.empty(queries.shape, dtype=torch.float32)
    ends = plan.cu_seqlens.tolist()
    for start, end in zip(ends, ends[1:], strict=False):
        if start == end:
            continue
        own = [rows[start:end].float().transpose(0, 1) for rows in (queries, keys, values)]
        mask = None
        if prefix is not None:
            own[1:] = [
                torch.cat((shared.float(), rows), dim=1)
                for shared, rows in zip(prefix, own[1:], strict=True)
            ]
        if prefix is not None or window is not None:
            mask = _visible(end - start, own[1].shape[1], window)
        query, key, value = (rows.unsqueeze(0) for rows in own)
        attended = F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        mixed[start:end] = attended.squeeze(0).transpose(0, 1)
    return mixed


def _visible(num_queries: int, num_keys: int, window: int | None) -> Tensor:
    """Which keys the last `num_queries` of `num_keys` positions see, [num_queries, num_keys]."""
    query = torch.arange(num_keys - num_queries, num_keys).unsqueeze(1)
    key = torch.arange(num_keys)
    visible = key <= query
    return visible if window is None else visible & (key > query - window)
