"""Both attentions write where the caller says: a decode step and its prefills share one buffer."""

from __future__ import annotations

import pytest
import torch

from gloss_kernels import DecodePlan, PackedPlan
from support.backends import BACKENDS, Backend

NUM_DECODE, LENGTHS = 3, (4, 2)
HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE = 4, 2, 16, 4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prefix_len", [0, 5])
def test_two_parts_of_one_buffer(backend: Backend, prefix_len: int) -> None:
    """The same values as without a buffer, in its rows and in no others."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(backend.device)

    num_packed = sum(LENGTHS)
    queries = drawn(NUM_DECODE + num_packed, HEADS, HEAD_DIM)
    keys, values = (drawn(num_packed, KV_HEADS, HEAD_DIM) for _ in range(2))
    caches = [drawn(NUM_DECODE + 1, KV_HEADS, PAGE_SIZE, HEAD_DIM) for _ in range(2)]
    prefix = (drawn(KV_HEADS, prefix_len, HEAD_DIM), drawn(KV_HEADS, prefix_len, HEAD_DIM))
    decode = DecodePlan(
        torch.arange(1, NUM_DECODE + 1, device=backend.device).unsqueeze(1),
        torch.tensor([1, 4, 2], device=backend.device),
        max_private_len=PAGE_SIZE,
        page_size=PAGE_SIZE,
        num_kv_heads=KV_HEADS,
        prefix_len=prefix_len,
    )
    starts = torch.tensor([0, LENGTHS[0], num_packed], device=backend.device)
    packed = PackedPlan(starts, num_tokens=num_packed, max_seqlen=max(LENGTHS))
    options = {"prefix": prefix if prefix_len else None, "scale": 0.3, "window": None}

    def decoded(out: torch.Tensor | None) -> torch.Tensor:
        return backend.ops.paged_decode_attention(
            queries[:NUM_DECODE], *caches, decode, out=out, **options
        )

    def prefilled(out: torch.Tensor | None) -> torch.Tensor:
        return backend.ops.packed_attention(
            queries[NUM_DECODE:], keys, values, packed, out=out, **options
        )

    buffer = torch.full((NUM_DECODE + num_packed + 2, HEADS, HEAD_DIM), 9.0, device=backend.device)
    rows = buffer[1:-1]
    for part, run in ((rows[:NUM_DECODE], decoded), (rows[NUM_DECODE:], prefilled)):
        before = buffer.clone()
        result = run(part)
        assert result.data_ptr() == part.data_ptr()
        assert torch.equal(part, run(None))
        part.fill_(9.0)
        assert torch.equal(buffer, torch.full_like(before, 9.0)), "rows of others"
