"""What the engine asks of embed_inject at the shapes of the released pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.embed_inject import embed_inject

MAX_REGISTERS = 40
"""A row in 16 bits, 16 values a thread: 1,536 threads fit."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    ids = torch.empty(256 * 25, dtype=torch.int64, device="meta")
    for pair in RELEASED_PAIRS:
        table = torch.empty(pair.vocab_size, pair.d_model, dtype=torch.bfloat16, device="meta")
        scale = math.sqrt(pair.d_model) if pair.activation == "gelu_tanh" else 1.0
        yield (
            f"{pair.name} injecting",
            partial(
                embed_inject,
                table,
                ids,
                embed_scale=scale,
                injected_rows=ids[:256],
                buffer=torch.empty(300, pair.d_model, dtype=torch.bfloat16, device="meta"),
                buffer_rows=ids[:256],
            ),
        )
        yield f"{pair.name} ids only", partial(embed_inject, table, ids, embed_scale=scale)
