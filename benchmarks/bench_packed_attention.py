"""Packed attention at the shapes of the released pairs: the AV's suffixes and the AR's texts.

python benchmarks/bench_packed_attention.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from functools import partial

import torch
from kernel_bench import SMOKE_SHAPE, Case, interpret_without_gpu, main
from torch import Tensor

from gloss_engine.released import ReleasedPair
from gloss_kernels import PackedPlan
from gloss_kernels.operations import Operations

KERNEL = "packed_attention"
interpret_without_gpu()

SUFFIX_TOKENS, SUFFIX_PREFIX = 25, 100
TEXT_TOKENS, TEXT_PREFIX = (60, 230), 30
_SET_BYTES = 256 << 20
"""Inputs rotate through more than L2 holds; a step's large ones come from there in part."""


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """One block of a step in which a batch starts, and one of scoring a quarter of it."""
    suffix, texts = SUFFIX_TOKENS, TEXT_TOKENS
    if shape is SMOKE_SHAPE:
        suffix, texts = 7, (5, 20)
    yield _case("suffixes", shape, [suffix] * batch, SUFFIX_PREFIX, device)
    drawn = random.Random(batch)
    lengths = [drawn.randint(*texts) for _ in range(max(batch // 4, 1))]
    yield _case("texts", shape, lengths, TEXT_PREFIX, device)


def _case(
    name: str, shape: ReleasedPair, lengths: list[int], prefix_len: int, device: torch.device
) -> Case:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    num_tokens, head_dim = sum(lengths), shape.head_dim
    num_heads, num_kv_heads = shape.num_heads, shape.num_kv_heads

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, head_dim, device=device, dtype=dtype)

    prefix = (drawn(num_kv_heads, prefix_len), drawn(num_kv_heads, prefix_len))
    starts = torch.tensor([0, *lengths], device=device).cumsum(0)
    plan = PackedPlan(starts, num_tokens=num_tokens, max_seqlen=max(lengths))
    # Made once a step and read by every block, so it is no part of one block's time.
    assert plan.starts.shape == (num_tokens,)
    heads = 2 * num_heads + 2 * num_kv_heads
    moved = (num_tokens * heads + 2 * num_kv_heads * prefix_len) * head_dim * dtype.itemsize
    num_sets = max(1, min(16, _SET_BYTES // moved + 1)) if device.type == "cuda" else 1
    sets = [
        (drawn(num_tokens, num_heads), *(drawn(num_tokens, num_kv_heads) for _ in range(2)))
        for _ in range(num_sets)
    ]
    pairs = sum(n * prefix_len + n * (n + 1) // 2 for n in lengths)
    options = {"prefix": prefix, "scale": head_dim**-0.5, "window": shape.window}
    kernel, plain = Operations("triton"), Operations("reference")
    return Case(
        name=name,
        runs=[partial(kernel.packed_attention, *inputs, plan, **options) for inputs in sets],
        reference=partial(plain.packed_attention, *sets[0], plan, **options),
        moved_bytes=moved,
        flops=4 * head_dim * num_heads * pairs,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
