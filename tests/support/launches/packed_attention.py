"""What the engine asks of packed_attention at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_kernels import PackedPlan
from gloss_kernels.packed_attention import packed_attention
from support.shapes import COMPILED_SHAPES

MAX_REGISTERS = 255
"""A tile's float32 sums are 64 registers a thread at a head of 128, 128 at a head of 256; two
programs of eight warps share a multiprocessor up to 128 registers, one up to 255."""

TENSOR_CORES = frozenset({"_packed_attention_kernel"})


_SUFFIXES, _FEW, _PROMPTS = (6400, 100), (25, 100), (6400, 0)
"""Packed tokens and shared keys: a batch of suffixes, one suffix (smaller tiles), no prefix."""

_FORMS = {
    "Qwen2.5-7B-Instruct": (_SUFFIXES, _FEW, _PROMPTS),
    "Gemma-3-12B-it": (_SUFFIXES, _PROMPTS),
    "Gemma-3-27B-it": (_SUFFIXES, _FEW),
    "Llama-3.3-70B-Instruct": (_SUFFIXES,),
    "embedded": (_FEW,),
}
"""Every pair's shape, and every form at a group of 7 and at the widest head; a compilation takes
seconds, and a window adds two comparisons."""


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    for pair in COMPILED_SHAPES:
        for num_tokens, prefix_len in _FORMS[pair.name]:
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
            yield (
                f"{pair.name} {num_tokens} tokens behind {prefix_len}",
                partial(
                    packed_attention,
                    queries,
                    keys,
                    values,
                    plan,
                    prefix=(prefix_keys, prefix_values) if prefix_len else None,
                    scale=pair.head_dim**-0.5,
                    window=pair.window,
                ),
            )
