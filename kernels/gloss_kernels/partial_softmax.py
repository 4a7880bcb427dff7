"""A softmax over blocks of keys, as far as it has come.

    peak = max_j s_j,   total = sum_j exp(s_j - peak),   acc = sum_j exp(s_j - peak) v_j

over the keys j that were taken in. Sums are float32, and weights are rounded to the values' type
before they multiply them (total sums them unrounded).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def absorb(queries, keys, values, seen, peak, total, acc, log2_scale):
    """Take a block of keys into (peak, total, acc); scores are kept in base 2."""
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * log2_scale
    scores = tl.where(seen, scores, float("-inf"))
    largest = tl.maximum(peak, tl.max(scores, axis=1))
    # A row that has seen nothing yet: -inf minus -inf would be NaN.
    base = tl.where(largest == float("-inf"), 0.0, largest)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(peak - base)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
    return largest, total * shrink + tl.sum(weights, axis=1), acc


def partial_memory(out: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Memory for acc, and for peak and total, of every row of a result."""
    acc = torch.empty(parts, *out.shape, dtype=torch.float32, device=out.device)
    stats = torch.empty(parts, *out.shape[:2], 2, dtype=torch.float32, device=out.device)
    return acc, stats
