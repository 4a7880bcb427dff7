"""What the engine asks of philox_uniform: the draws of a batch of sequences that start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_kernels.philox import philox_uniform

MAX_REGISTERS = 64
"""Four words and two keys for each of 4 draws a thread: 1,024 threads fit at once."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    for n, width in ((1, 1), (1, 120), (256, 120), (256, 1000)):
        row = torch.empty(n, 1, dtype=torch.int64, device="meta")
        positions = torch.empty(n, width, dtype=torch.int64, device="meta")
        yield f"{n} x {width}", partial(philox_uniform, row, row, row, positions)
