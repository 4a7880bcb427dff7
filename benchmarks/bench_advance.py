"""A step's state: report, presence, stop automaton and finish codes of every row.

python benchmarks/bench_advance.py [--smoke] [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from kernel_bench import Case, interpret_without_gpu, main
from torch import Tensor

from gloss_engine.av.stop import CLOSING_TAG
from gloss_engine.released import ReleasedPair
from gloss_kernels.operations import Operations

KERNEL = "advance"
NUM_STATES = len(CLOSING_TAG) + 1
interpret_without_gpu()


def cases(shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
    """A step's rows, without and with a presence map. Each run counts on, as a sequence does."""
    yield from (_case(shape, batch, device, with_presence) for with_presence in (False, True))


def _case(shape: ReleasedPair, batch: int, device: torch.device, with_presence: bool) -> Case:
    kernel, plain = Operations("triton"), Operations("reference")

    def zeros(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(*size, dtype=dtype, device=device)

    tokens = torch.randint(shape.vocab_size, (batch,), device=device)
    state: dict[str, Tensor] = {
        "codes": zeros(batch),
        "last_tokens": zeros(batch),
        "stop_states": zeros(batch),
        "num_generated": zeros(batch),
        "report": zeros(3, batch, dtype=torch.int32),
    }
    if with_presence:
        state["presence"] = zeros(batch, -(-shape.vocab_size // 32), dtype=torch.int32)
    constants: dict[str, Any] = {
        # Replays of the graph count far beyond a sequence, and a row that ended would idle.
        "limits": torch.full((batch,), 1 << 40, device=device),
        "stop_table": zeros(NUM_STATES, shape.vocab_size, dtype=torch.uint8),
        "is_eos": zeros(shape.vocab_size, dtype=torch.bool),
    }
    logprobs = -torch.rand(batch, device=device)
    finite = torch.ones(batch, dtype=torch.bool, device=device)

    def run(operations: Operations) -> tuple[Tensor, ...]:
        operations.advance(tokens, logprobs, finite, **state, **constants)
        return tuple(state.values())

    # Tokens, codes, counts, states and limits in; codes, counts, states, tokens and report out.
    per_row = 9 * 8 + 4 + 1 + 2 + 12 + (8 if with_presence else 0)
    return Case(
        name="presence" if with_presence else "plain",
        runs=[lambda: run(kernel)],
        reference=lambda: run(plain),
        reset=lambda: [tensor.zero_() for tensor in state.values()],
        moved_bytes=batch * per_row,
        tolerance=0.0,
    )


if __name__ == "__main__":
    main(sys.modules[__name__])
