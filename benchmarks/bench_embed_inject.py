"""Where a prefill starts, at the shapes of the released pairs: `batch` suffixes of 25 tokens.

python benchmarks/bench_embed_inject.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from kernel_bench import Case, interpret_without_gpu, main

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "embed_inject"
SUFFIX_TOKENS = 25
MARKER_POSITION = 10
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """Every sequence has the template's tokens and a row of the prefill buffer."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    table = torch.randn(shape.vocab_size, shape.d_model, device=device, dtype=dtype)
    ids = torch.randint(shape.vocab_size, (SUFFIX_TOKENS,), device=device).repeat(batch)
    injected = torch.arange(batch, device=device) * SUFFIX_TOKENS + MARKER_POSITION
    buffer = torch.randn(1 + batch, shape.d_model, device=device, dtype=dtype)
    buffer_rows = torch.arange(batch, device=device) + 1
    scale = math.sqrt(shape.d_model) if shape.activation == "gelu_tanh" else 1.0

    def embed(operations: Operations) -> torch.Tensor:
        return operations.embed_inject(
            table,
            ids,
            embed_scale=scale,
            injected_rows=injected,
            buffer=buffer,
            buffer_rows=buffer_rows,
        )

    kernel, plain = Operations("triton"), Operations("reference")
    row_bytes = shape.d_model * table.element_size()
    yield Case(
        name="suffixes",
        runs=[lambda: embed(kernel)],
        reference=lambda: embed(plain),
        moved_bytes=(SUFFIX_TOKENS - 1 + batch + ids.numel()) * row_bytes
        + (ids.numel() + 2 * batch) * 8,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
