"""Split, bias or norm, rotation and store of a decode step's projections, into pages of 16.

python benchmarks/bench_qkv_rope_store.py [--smoke] [--output FILE]

Each pair as its model has it: Qwen with a bias, Gemma with q/k norm, Llama with neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from kernel_bench import Case, interpret_without_gpu, main
from torch import Tensor

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "qkv_rope_store"
PAGE_SIZE = 16
KINDS = {"bias": "Qwen", "norm": "Gemma", "plain": "Llama"}
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """One token of each sequence, each into a page of its own; all kinds for a made-up shape."""
    kinds = [kind for kind, family in KINDS.items() if family in shape.name]
    for kind in kinds or KINDS:
        yield _case(kind, shape, batch, device)


def _case(kind: str, shape: ReleasedPair, batch: int, device: torch.device) -> Case:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    dim, kv_heads = shape.head_dim, shape.num_kv_heads
    qkv = torch.randn(batch, (shape.num_heads + 2 * kv_heads) * dim, **options)
    bias = torch.randn(qkv.shape[1], **options) if kind == "bias" else None
    norms = [torch.randn(dim, **options) if kind == "norm" else None for _ in range(2)]
    angles = torch.randn(batch, dim // 2, device=device)
    cosines, sines = angles.cos(), angles.sin()
    table = torch.stack((torch.cat((cosines, cosines), 1), torch.cat((-sines, sines), 1)), dim=1)
    caches = [torch.zeros(batch + 1, kv_heads, PAGE_SIZE, dim, **options) for _ in range(2)]
    page = torch.randperm(batch, device=device) + 1
    slot_mapping = torch.stack((page, torch.randint(PAGE_SIZE, (batch,), device=device)))

    def run(operation: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, ...]:
        heads = operation(
            qkv,
            table,
            num_heads=shape.num_heads,
            num_kv_heads=kv_heads,
            bias=bias,
            q_norm_weight=norms[0],
            k_norm_weight=norms[1],
            norm_offset=1.0 if kind == "norm" else 0.0,
            key_cache=caches[0],
            value_cache=caches[1],
            slot_mapping=slot_mapping,
        )
        return *heads, *caches

    # The rows in and out, k and v once more into their pages; half of each table row; slots.
    elements = 2 * qkv.numel() + 2 * batch * kv_heads * dim
    elements += sum(vector.numel() for vector in (bias, *norms) if vector is not None)
    return Case(
        name=kind,
        runs=[partial(run, Operations("triton").qkv_rope_store)],
        reference=partial(run, Operations("reference").qkv_rope_store),
        reset=lambda: [cache.zero_() for cache in caches],
        moved_bytes=elements * qkv.element_size() + batch * (dim * 4 + 16),
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
