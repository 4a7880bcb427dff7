"""Capture at the shapes of the released pairs: `batch` rows of a residual of 4,096 tokens.

python benchmarks/bench_hook_gather.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from kernel_bench import Case, interpret_without_gpu, main

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "hook_gather"
NUM_TOKENS = 4096
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """The capture alone, and with the injection into a prefill buffer."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    residual = torch.randn(NUM_TOKENS, shape.d_model, device=device, dtype=dtype)
    rows = torch.randperm(NUM_TOKENS, device=device)[:batch]
    buffer = torch.zeros(batch * 25, shape.d_model, device=device, dtype=dtype)
    places = torch.arange(batch, device=device) * 25 + 10
    kernel, plain = Operations("triton"), Operations("reference")
    values = batch * shape.d_model
    moved = values * (residual.element_size() + 4) + batch * (8 + 4)

    def injected(operations: Operations) -> tuple[torch.Tensor, ...]:
        raw, norms = operations.hook_gather(
            residual,
            rows,
            buffer=buffer,
            buffer_rows=places,
            injection_scale=shape.injection_scale,
        )
        return raw, norms, buffer

    yield Case(
        name="capture",
        runs=[lambda: kernel.hook_gather(residual, rows)],
        reference=lambda: plain.hook_gather(residual, rows),
        moved_bytes=moved,
        tolerance=1e-6,
    )
    yield Case(
        name="capture and inject",
        runs=[lambda: injected(kernel)],
        reference=lambda: injected(plain),
        reset=buffer.zero_,
        moved_bytes=moved + values * buffer.element_size() + batch * 8,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
