"""Every draw that a batch of starting sequences may need, at up to 120 tokens each.

python benchmarks/bench_philox.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from kernel_bench import Case, interpret_without_gpu, main

from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "philox"
NUM_TOKENS = 120
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """As `Slots.admit` asks; the pair's shape does not matter."""
    kernel, plain = Operations("triton"), Operations("reference")
    seeds, item_keys = (
        torch.randint(-(2**62), 2**62, (batch, 1), device=device, dtype=torch.int64)
        for _ in range(2)
    )
    samples = torch.arange(batch, device=device).unsqueeze(1)
    positions = torch.arange(NUM_TOKENS, device=device).unsqueeze(0)
    arguments = (seeds, item_keys, samples, positions)
    yield Case(
        name="draws",
        runs=[lambda: kernel.philox_uniform(*arguments)],
        reference=lambda: plain.philox_uniform(*arguments),
        moved_bytes=3 * 8 * batch + 8 * NUM_TOKENS + 4 * batch * NUM_TOKENS,
        tolerance=0.0,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
