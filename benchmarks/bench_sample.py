"""Sampling a step's tokens: greedy, drawn, filtered, penalised, from logits of the head's type.

    python benchmarks/bench_sample.py [--smoke] [--output FILE]

The rate counts one read of the logits, which is what a step cannot avoid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from kernel_bench import Case, interpret_without_gpu, main
from torch import Tensor

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "sample"
SPREAD = 2.5
OUT_OF_CACHE_BYTES = 256 << 20
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """A step's rows of normal logits; several sets where they might stay in the L2 cache."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = batch * shape.vocab_size * dtype.itemsize
    num_sets = min(16, max(1, OUT_OF_CACHE_BYTES // size)) if device.type == "cuda" else 1

    def logits() -> Tensor:
        return (torch.randn(batch, shape.vocab_size, device=device) * SPREAD).to(dtype)

    sets = [logits() for _ in range(num_sets)]

    def column(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((batch,), value, dtype=dtype, device=device)

    words = torch.zeros(batch, -(-shape.vocab_size // 32), dtype=torch.int32, device=device)
    words[:, ::50] = 0x00100401
    uniforms = torch.rand(batch, device=device)
    penalty = {"penalties": column(1.2), "presence": words}
    top = {"top_ks": column(50, torch.int64), "top_ps": column(0.95)}
    one = {"temperatures": column(1.0), "any_greedy": False}

    yield _case("greedy", sets, None, {"temperatures": column(0.0)})
    yield _case("temperature", sets, uniforms, one)
    yield _case("penalty", sets, uniforms, one | penalty)
    yield _case("top-k", sets, uniforms, one | {"top_ks": top["top_ks"]})
    yield _case("top-p", sets, uniforms, one | {"top_ps": top["top_ps"]})
    yield _case("top-k + top-p", sets, uniforms, one | top)


def _case(name: str, sets: list[Tensor], uniforms: Tensor | None, columns: dict[str, Any]) -> Case:
    kernel, plain = Operations("triton"), Operations("reference")

    def run(logits: Tensor) -> Callable[[], Any]:
        return lambda: kernel.sample(logits, uniforms, **columns)

    def reference() -> Any:
        return plain.sample(sets[0].clone(), uniforms, **columns)

    return Case(
        name=name,
        runs=[run(logits) for logits in sets],
        reference=reference,
        moved_bytes=sets[0].numel() * sets[0].element_size(),
        # The two order their sums differently: a uniform within some 1e-7 of an edge may fall to
        # the neighbour, whose log-probability is another. A token's share is about 1e-4 here.
        tolerance=5e-2,
        unequal=0.0 if uniforms is None else 0.01,
        # The reference asks the device which tokens to penalise, and how many candidates it needs.
        captures=name in ("greedy", "temperature"),
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
