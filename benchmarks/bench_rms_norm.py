"""RMS norm at the shapes of the released pairs: plain, with a residual, and into fp8.

python benchmarks/bench_rms_norm.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from kernel_bench import Case, interpret_without_gpu, main

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "rms_norm"
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """A decode step's rows."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = torch.randn(batch, shape.d_model, device=device, dtype=dtype)
    weight = torch.randn(shape.d_model, device=device, dtype=dtype)
    kernel, plain = Operations("triton"), Operations("reference")
    size = rows.numel() * rows.element_size()

    residual = torch.zeros_like(rows)

    yield Case(
        name="plain",
        runs=[lambda: kernel.rms_norm(rows, weight, 1e-6)],
        reference=lambda: plain.rms_norm(rows, weight, 1e-6),
        moved_bytes=2 * size,
    )
    yield Case(
        name="residual",
        runs=[lambda: kernel.rms_norm(rows, weight, 1e-6, residual=residual)],
        reference=lambda: plain.rms_norm(rows, weight, 1e-6, residual=residual),
        reset=lambda: residual.fill_(1.0),
        moved_bytes=4 * size,
    )
    yield Case(
        name="residual fp8",
        runs=[lambda: kernel.rms_norm_fp8(rows, weight, 1e-6, residual=residual)],
        reference=lambda: plain.rms_norm_fp8(rows, weight, 1e-6, residual=residual),
        reset=lambda: residual.fill_(1.0),
        moved_bytes=3 * size + rows.numel(),
        tolerance=2e-2,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
