"""The gate of the MLP at the shapes of the released pairs: plain, and into fp8.

python benchmarks/bench_gated_activation.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch
from kernel_bench import Case, interpret_without_gpu, main

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "gated_activation"
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """A decode step's rows, as the projection before it leaves them: in the L2 cache."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = torch.randn(batch, 2 * shape.intermediate_size, device=device, dtype=dtype)
    kernel, plain = Operations("triton"), Operations("reference")
    size, num_outputs = rows.numel() * rows.element_size(), rows.numel() // 2

    yield Case(
        name="plain",
        runs=[partial(kernel.gated_activation, rows, shape.activation)],
        reference=partial(plain.gated_activation, rows, shape.activation),
        moved_bytes=size + num_outputs * rows.element_size(),
    )
    yield Case(
        name="fp8",
        runs=[partial(kernel.gated_activation_fp8, rows, shape.activation)],
        reference=partial(plain.gated_activation_fp8, rows, shape.activation),
        moved_bytes=size + num_outputs + 4 * batch,
        tolerance=2e-2,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
