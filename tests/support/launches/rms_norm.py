"""What the engine asks of rms_norm at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.rms_norm import rms_norm, rms_norm_fp8

MAX_REGISTERS = 64
"""Two float32 values of 16 elements a thread and the addresses: 1,024 threads fit at once."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    for pair in RELEASED_PAIRS:
        offset = 1.0 if pair.activation == "gelu_tanh" else 0.0
        rows = torch.empty(256, pair.d_model, dtype=torch.bfloat16, device="meta")
        residual, weight = torch.empty_like(rows), torch.empty_like(rows[0])
        for function in (rms_norm, rms_norm_fp8):
            plain = partial(function, rows, weight, 1e-6, offset=offset)
            yield f"{pair.name} {function.__name__}", plain
            yield f"{pair.name} {function.__name__} residual", partial(plain, residual=residual)
