"""The four projections of a block in fp8, against bf16: rows quantised and multiplied.

python benchmarks/bench_linear_fp8.py [--smoke] [--output FILE]

Here the reference is the bf16 linear layer that fp8 would replace, so `error` is the cost of fp8
itself, and `of_matmul` is a share of the bf16 ceiling: up to 2. A model reads each weight once a
step, so both rotate over weights that do not fit the L2 cache together.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from kernel_bench import Case, interpret_without_gpu, main

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "linear_fp8"
COLD_BYTES = 256 << 20
"""Weights of a case together: four times the 60 MB of L2."""
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """The quantised attention output alone, then the projections."""
    width, query_width = shape.d_model, shape.num_heads * shape.head_dim
    kernel, plain = Operations("triton"), Operations("reference")
    rows = torch.randn(batch, query_width, device=device, dtype=torch.bfloat16)
    yield Case(
        name="quantise",
        runs=[lambda: kernel.quantize_fp8(rows)],
        reference=lambda: plain.quantize_fp8(rows),
        moved_bytes=rows.numel() * 3 + batch * 4,
        tolerance=2e-2,
    )
    for name, in_features, out_features in (
        ("qkv", width, query_width + 2 * shape.num_kv_heads * shape.head_dim),
        ("o", query_width, width),
        ("gate_up", width, 2 * shape.intermediate_size),
        ("down", shape.intermediate_size, width),
    ):
        yield _projection(name, in_features, out_features, batch, device)


def _projection(
    name: str, in_features: int, out_features: int, batch: int, device: torch.device
) -> Case:
    kernel = Operations("triton")
    values = in_features * out_features
    num_sets = -(-COLD_BYTES // values) if device.type == "cuda" else 2
    rows = torch.randn(batch, in_features, device=device, dtype=torch.bfloat16)
    weights = [
        torch.randn(out_features, in_features, device=device, dtype=torch.bfloat16)
        for _ in range(num_sets)
    ]
    quantized = [kernel.quantize_fp8(weight) for weight in weights]
    in_turn = itertools.cycle(weights)
    return Case(
        name=name,
        runs=[
            lambda weight=weight: kernel.linear_fp8(  # type: ignore[misc]
                kernel.quantize_fp8(rows), weight, dtype=torch.bfloat16
            )
            for weight in quantized
        ],
        reference=lambda: F.linear(rows, next(in_turn)),
        moved_bytes=values + (batch + out_features) * 4 + batch * (in_features + out_features) * 2,
        flops=2 * batch * values,
        tolerance=5e-2,
        compiles=False,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
