"""What the kernels and their wrappers share: sizes, the device, and what the interpreter needs."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

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


@triton.jit
def to_fp8(values):
    """float32 values of at most 448 in magnitude to e4m3, rounded to the nearest.

    Triton's interpreter drops a carry out of the significand: -125.3 became -64 (3.9). There the
    values are rounded to the grid of e4m3 first.
    """
    if INTERPRETED:
        exponent = values.to(tl.int32, bitcast=True) & 0x7F800000
        step = tl.maximum(exponent.to(tl.float32, bitcast=True), 0.015625) / 8
        values = ((values / step + 12582912.0) - 12582912.0) * step
    return values.to(tl.float8e4nv)
