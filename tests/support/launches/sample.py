"""What the engine asks of sample at the vocabularies of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.sample import sample

MAX_REGISTERS = 128
"""The threshold's 512 threads hold eight sums and minima of two rows each: one program a
multiprocessor at least, and 132 rows at once."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    n = 256

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    column = empty(n)
    filters = {"top_ks": empty(n, dtype=torch.int64), "top_ps": column, "min_ps": column}
    for pair in RELEASED_PAIRS:
        words = empty(n, -(-pair.vocab_size // 32), dtype=torch.int32)
        penalty = {"penalties": column, "presence": words}
        logits = empty(n, pair.vocab_size, dtype=torch.bfloat16)
        call = partial(sample, logits, temperatures=column)
        yield f"{pair.name} greedy", partial(call, None)
        yield f"{pair.name} all", partial(call, column, **filters, **penalty)
        if pair is RELEASED_PAIRS[0]:
            yield f"{pair.name} draws", partial(call, column, any_greedy=False)
            yield f"{pair.name} penalty", partial(call, column, **penalty)
            yield f"{pair.name} top_k", partial(call, column, top_ks=filters["top_ks"])
            yield f"{pair.name} nucleus", partial(call, column, top_ps=column)
            yield f"{pair.name} filters", partial(call, column, **filters)
