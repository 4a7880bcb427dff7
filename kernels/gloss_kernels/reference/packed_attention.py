"""Causal attention of ragged sequences packed without padding, behind an optional shared prefix.

    out_t = softmax(q_t [K_prefix ; K_{s..t}]^T * scale) [V_prefix ; V_{s..t}],   s: start of t's
    sequence

Serves the AV's suffixes, the AR's texts and whole prompts. Reads the prefix once and every packed
row once.
"""

from __future__ import annotations

from torch import Tensor

from gloss_kernels.packed_plan import PackedPlan
from gloss_kernels.reference.attention import two_part_attention


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
