"""What the engine asks of advance at the vocabularies of the released pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from gloss_engine.av.stop import CLOSING_TAG
from gloss_engine.released import RELEASED_PAIRS
from gloss_kernels.advance import advance

MAX_REGISTERS = 40
"""A row a thread."""

TENSOR_CORES: frozenset[str] = frozenset()


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls by name."""
    n = 256
    ids = torch.empty(n, dtype=torch.int64, device="meta")
    logprobs = torch.empty(n, dtype=torch.float32, device="meta")
    report = torch.empty(3, n, dtype=torch.int32, device="meta")
    for pair in RELEASED_PAIRS:
        vocab = torch.empty(pair.vocab_size, dtype=torch.bool, device="meta")
        call = partial(
            advance,
            ids,
            logprobs,
            torch.empty(n, dtype=torch.bool, device="meta"),
            codes=ids,
            last_tokens=ids,
            stop_states=ids,
            num_generated=ids,
            limits=ids,
            stop_table=vocab.to(torch.uint8).expand(len(CLOSING_TAG) + 1, -1).contiguous(),
            is_eos=vocab,
            report=report,
        )
        words = -(-pair.vocab_size // 32)
        presence = torch.empty(n, words, dtype=torch.int32, device="meta")
        yield pair.name, call
        yield f"{pair.name} presence", partial(call, presence=presence)
