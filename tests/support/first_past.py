"""Runs the last step of the sampler's search alone, on sums that no logits lead to exactly.

To be imported inside a test: triton is decorated when it is imported.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.sample import _first_past


@triton.jit
def _alone(running_ptr, weights_ptr, out_ptr, target, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    running, weights = tl.load(running_ptr + index), tl.load(weights_ptr + index)
    tl.store(out_ptr, _first_past(running, weights, target, index, SIZE))


def first_past(weights: Tensor, target: float) -> int:
    """The index found among weights [a power of two] float64 for a target."""
    out = torch.zeros(1, dtype=torch.int32, device=weights.device)
    _alone[(1,)](weights.cumsum(0), weights, out, target, SIZE=weights.shape[0])
    return int(out)
