"""What the engine asks of gated_activation at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.gated_activation import gated_activation, gated_activation_fp8

MAX_REGISTERS = 96
"""Of 512 threads that hold a row of 32,768 in 64 each; 128 would be all a multiprocessor has."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    for pair in RELEASED_PAIRS:
        rows = torch.empty(256, 2 * pair.intermediate_size, dtype=torch.bfloat16, device="meta")
        for function in (gated_activation, gated_activation_fp8):
            yield f"{pair.name} {function.__name__}", partial(function, rows, pair.activation)
