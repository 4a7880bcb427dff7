"""What the engine asks of packed_attention at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels import PackedPlan
from gloss_kernels.packed_attention import packed_attention

MAX_REGISTERS = 255
"""A tile's float32 sums are 64 registers a thread at a head of 128, 128 at a head of 256; two
programs of eight warps share a multiprocessor up to 128 registers, one up to 255."""

TENSOR_CORES = frozenset({"_packed_attention_kernel"})


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name: a few suffixes and many, which take different tiles, and whole prompts."""
    for pair in RELEASED_PAIRS:
        for name, num_tokens, prefix_len in (
            ("suffix", 25, 100),
            ("suffixes", 6400, 100),
            ("prompts", 6400, 0),
        ):
            queries, keys, values, prefix_keys, prefix_values = (
                torch.empty(*shape, pair.head_dim, dtype=torch.bfloat16, device="meta")
                for shape in (
                    (num_tokens, pair.num_heads),
                    *[(num_tokens, pair.num_kv_heads)] * 2,
                    *[(pair.num_kv_heads, prefix_len)] * 2,
                )
            )
            starts = torch.empty(num_tokens // 25 + 1, dtype=torch.int64, device="meta")
            plan = PackedPlan(starts, num_tokens=num_tokens, max_seqlen=25)
            prefix = (prefix_keys, prefix_values) if prefix_len else None
            call = partial(packed_attention, queries, keys, values, plan, prefix=prefix, scale=0.1)
            for window in {None, pair.window}:
                yield f"{pair.name} {name} window {window}", partial(call, window=window)
