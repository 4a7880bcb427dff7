"""What the engine asks of paged_decode_attention at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_kernels import DecodePlan
from gloss_kernels.paged_decode_attention import paged_decode_attention
from support.shapes import COMPILED_SHAPES

MAX_REGISTERS, MAX_LONE_REGISTERS = 184, 255
"""Batches take up to 178: three programs or more at once. A lone sequence's program, which reads
the prefix too, has a multiprocessor to itself: it takes 189 under Triton 3.6, 246 under 3.7 and
198 under 3.9."""

TENSOR_CORES = frozenset({"_prefix_kernel", "_private_kernel"})

_PAGE_SIZE, _PREFIX_LEN = 16, 100
_STEPS = {"one": (1, 145), "one, long": (1, 4000), "full": (256, 145), "long": (32, 1000)}
"""Sequences, and private keys at most: one launch, splits, the prefix apart, both (Gemma-3-12B)."""


def max_registers(case: str) -> int:
    """Of a launch by its name."""
    return MAX_LONE_REGISTERS if " one" in case else MAX_REGISTERS


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    for pair in COMPILED_SHAPES:
        head_dim = pair.head_dim
        shape = (pair.num_kv_heads, _PREFIX_LEN, head_dim)
        own = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        cache = own.new_empty(4096, pair.num_kv_heads, _PAGE_SIZE, head_dim)
        for name, (n, max_private_len) in _STEPS.items():
            lens = torch.empty(n, dtype=torch.int64, device="meta")
            plan = DecodePlan(
                lens.new_empty(n, -(-max_private_len // _PAGE_SIZE)),
                lens,
                max_private_len=max_private_len,
                page_size=_PAGE_SIZE,
                num_kv_heads=pair.num_kv_heads,
                prefix_len=_PREFIX_LEN,
            )
            # Once without: a loop without a prefix is the one that resumes, and starts from zero.
            for prefix in ((own, own), None) if name == "full" else ((own, own),):
                yield (
                    f"{pair.name} {name}{'' if prefix else ', no prefix'}",
                    partial(
                        paged_decode_attention,
                        own.new_empty(n, pair.num_heads, head_dim),
                        cache,
                        cache,
                        plan,
                        prefix=prefix,
                        scale=head_dim**-0.5,
                        window=pair.window,
                    ),
                )
