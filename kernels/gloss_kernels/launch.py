"""What the kernels and their wrappers share: sizes, the device, and what the interpreter needs."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter; settled when triton decorates them."""

H200_MULTIPROCESSORS = 132
"""Assumed where no device can be asked: under the interpreter and for compiling ahead of time."""


def next_power_of_2(count: int, least: int = 1) -> int:
    """The smallest power of two that is at least `count` and at least `least`."""
    return max(least, triton.next_power_of_2(count))


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a device."""
    if device.type != "cuda":
        return H200_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def row_warps(block: int) -> int:
    """Warps for a program that holds one row of `block` elements.

    16 float32 values a thread keep the row in registers with room for a second operand. Chosen, not
    swept: no GPU was at hand.
    """
    return min(16, max(1, block // 512))


def result_like(rows: Tensor, out: Tensor | None) -> Tensor:
    """Memory for a result of the shape of `rows`: what the caller gave, or new."""
    if out is None:
        return torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    assert out.shape == rows.shape and out.is_contiguous()
    assert out.dtype == rows.dtype and out.device == rows.device
    return out
