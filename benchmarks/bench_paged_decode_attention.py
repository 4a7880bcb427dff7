"""Decode attention at the shapes of the released pairs: a batch in the middle of its explanations.

python benchmarks/bench_paged_decode_attention.py [--smoke] [--output FILE]

Every sequence stands at another point: a suffix of 25 tokens and up to 120 generated ones behind a
shared prefix of 100. Caches are those of several blocks in turn, so that a large batch finds its
keys outside the L2 cache; a batch of one has too few, and reads from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from kernel_bench import Case, interpret_without_gpu, main
from torch import Tensor

from gloss_engine.released import ReleasedPair
from gloss_kernels import DecodePlan
from gloss_kernels.operations import Operations

KERNEL = "paged_decode_attention"
_PREFIX_LEN, _SUFFIX_LEN, _MAX_GENERATED = 100, 25, 120
_PAGE_SIZE = 16
_TOTAL_BYTES = 256 << 20
_MOST_BLOCKS = 20
interpret_without_gpu()


@dataclass(frozen=True, kw_only=True)
class _Block:
    """What one block of the model reads in a step."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    prefix: tuple[Tensor, Tensor]


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """A decode step of one block."""
    generator = torch.Generator().manual_seed(batch)
    generated = torch.randint(0, _MAX_GENERATED + 1, (batch,), generator=generator)
    lens = generated + _SUFFIX_LEN
    most = _SUFFIX_LEN + _MAX_GENERATED
    pages = -(-most // _PAGE_SIZE)
    # As many pages as sequences at their longest would hold, each sequence's anywhere among them.
    num_pages = batch * pages + 1
    table = torch.randperm(num_pages - 1, generator=generator).view(batch, pages) + 1
    plan = DecodePlan(
        table.to(device),
        lens.to(device),
        max_private_len=most,
        page_size=_PAGE_SIZE,
        num_kv_heads=shape.num_kv_heads,
        prefix_len=_PREFIX_LEN,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    row_bytes = 2 * shape.num_kv_heads * shape.head_dim * dtype.itemsize
    num_keys = int(lens.sum())
    count = min(_MOST_BLOCKS, 1 + _TOTAL_BYTES // (num_keys * row_bytes))
    if device.type != "cuda":
        count = 1
    blocks = [_block(shape, batch, num_pages, dtype, device) for _ in range(count)]
    query_bytes = batch * shape.num_heads * shape.head_dim * dtype.itemsize
    kernel, plain = Operations("triton"), Operations("reference")
    yield Case(
        name="step",
        runs=[_run(kernel, block, plan, shape) for block in blocks],
        reference=_run(plain, blocks[0], plan, shape),
        moved_bytes=(_PREFIX_LEN + num_keys) * row_bytes + 2 * query_bytes,
        flops=4 * shape.num_heads * shape.head_dim * (batch * _PREFIX_LEN + num_keys),
    )


def _block(
    shape: ReleasedPair, batch: int, num_pages: int, dtype: torch.dtype, device: torch.device
) -> _Block:
    def drawn(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=device, dtype=dtype)

    pool = (num_pages, shape.num_kv_heads, _PAGE_SIZE, shape.head_dim)
    shared = (shape.num_kv_heads, _PREFIX_LEN, shape.head_dim)
    return _Block(
        queries=drawn(batch, shape.num_heads, shape.head_dim),
        keys=drawn(*pool),
        values=drawn(*pool),
        prefix=(drawn(*shared), drawn(*shared)),
    )


def _run(
    operations: Operations, block: _Block, plan: DecodePlan, shape: ReleasedPair
) -> Callable[[], Tensor]:
    return lambda: operations.paged_decode_attention(
        block.queries,
        block.keys,
        block.values,
        plan,
        prefix=block.prefix,
        scale=shape.head_dim**-0.5,
        window=shape.window,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
