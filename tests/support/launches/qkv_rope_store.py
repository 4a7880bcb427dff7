"""What the engine asks of qkv_rope_store at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.qkv_rope_store import qkv_rope_store

MAX_REGISTERS = 64
"""Both halves of the heads, cosines and sines, 8 float32 values of each a thread, and addresses:
1,024 threads fit on a multiprocessor at once."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name: a decode step that stores, and rows that nobody keeps."""
    num_tokens = 256
    for pair in RELEASED_PAIRS:
        dim = pair.head_dim
        width = (pair.num_heads + 2 * pair.num_kv_heads) * dim
        qkv = torch.empty(num_tokens, width, dtype=torch.bfloat16, device="meta")
        cache = torch.empty(4096, pair.num_kv_heads, 16, dim, dtype=qkv.dtype, device="meta")
        norm = torch.empty(dim, dtype=qkv.dtype, device="meta") if "Gemma" in pair.name else None
        plain = partial(
            qkv_rope_store,
            qkv,
            torch.empty(num_tokens, 2, dim, device="meta"),
            num_heads=pair.num_heads,
            num_kv_heads=pair.num_kv_heads,
            bias=torch.empty_like(qkv[0]) if "Qwen" in pair.name else None,
            q_norm_weight=norm,
            k_norm_weight=norm,
            norm_offset=0.0 if norm is None else 1.0,
        )
        slots = torch.empty(2, num_tokens, dtype=torch.int64, device="meta")
        yield pair.name, plain
        yield (
            f"{pair.name} stores",
            partial(plain, key_cache=cache, value_cache=cache, slot_mapping=slots),
        )
