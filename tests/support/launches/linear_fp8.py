"""What the engine asks of quantize_fp8 at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.linear_fp8 import quantize_fp8

MAX_REGISTERS = 56
"""16 values a thread, the bytes they become and the addresses: 1,024 threads fit at once."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name: a step's attention output, and the rows of every weight at load."""
    for pair in RELEASED_PAIRS:
        for name, width in {
            "attention output": pair.num_heads * pair.head_dim,
            "qkv and gate_up": pair.d_model,
            "down": pair.intermediate_size,
        }.items():
            rows = torch.empty(256, width, dtype=torch.bfloat16, device="meta")
            yield f"{pair.name} {name}", partial(quantize_fp8, rows)
