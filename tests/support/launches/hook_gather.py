"""What the engine asks of hook_gather at the shapes of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.hook_gather import hook_gather

MAX_REGISTERS = 48
"""A row's 16 values a thread and the addresses of two rows written: 1,280 threads fit at once."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    rows = torch.empty(256, dtype=torch.int64, device="meta")
    for pair in RELEASED_PAIRS:
        residual = torch.empty(4096, pair.d_model, dtype=torch.bfloat16, device="meta")
        yield f"{pair.name} capture", partial(hook_gather, residual, rows)
        sources = {
            "capture and inject": residual,
            "activations of callers": torch.empty(85, pair.d_model, device="meta"),
        }
        for name, source in sources.items():
            # In the AV's type, or unit directions in float32.
            for dtype in (torch.bfloat16, torch.float32):
                yield (
                    f"{pair.name} {name} {dtype}",
                    partial(
                        hook_gather,
                        source,
                        rows,
                        buffer=torch.empty(300, pair.d_model, dtype=dtype, device="meta"),
                        buffer_rows=rows,
                        injection_scale=150.0,
                    ),
                )
