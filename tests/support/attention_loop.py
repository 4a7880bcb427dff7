"""Attention written as the definition says it, one query at a time, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    position: int,
    scale: float,
    window: int | None,
) -> Tensor:
    """One token's attention over absolute positions 0 .. position.

    Args:
        query: [num_heads, head_dim].
        keys, values: [num_kv_heads, at least position + 1, head_dim], by absolute position.
        position: the token's own absolute position.
        scale, window: as in the operations.

    Returns:
        [num_heads, head_dim] float64.
    """
    first = 0 if window is None else max(0, position - window + 1)
    seen = slice(first, position + 1)
    num_heads, group = query.shape[0], query.shape[0] // keys.shape[0]
    out = torch.empty(query.shape, dtype=torch.float64)
    for head in range(num_heads):
        own = keys[head // group, seen].double()
        weights = torch.softmax(own @ query[head].double() * scale, dim=0)
        out[head] = weights @ values[head // group, seen].double()
    return out


def behind_prefix(prefix: Tensor | None, own: Tensor) -> Tensor:
    """[num_kv_heads, length, head_dim] with the shared prefix standing before it."""
    return own if prefix is None else torch.cat((prefix, own), dim=1)
