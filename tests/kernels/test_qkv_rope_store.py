"""Split, norm, rotation and store against a loop over tokens and heads in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_kernels.reference.qkv_rope_store import qkv_rope_store

EPS = 1e-6
# 16-bit types round after the norm and after the rotation.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}


def _table(num_positions: int, head_dim: int) -> Tensor:
    inv_freq = 1.0 / 100.0 ** (torch.arange(head_dim // 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1) * inv_freq
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1).float()


def _rotate(head: Tensor, cos_sin: Tensor) -> Tensor:
    half = head.shape[0] // 2
    out = torch.empty_like(head)
    for i in range(half):
        cos, sin = cos_sin[0, i].double(), cos_sin[1, i + half].double()
        out[i] = head[i] * cos - head[i + half] * sin
        out[i + half] = head[i + half] * cos + head[i] * sin
    return out


def _norm(head: Tensor, weight: Tensor | None, offset: float) -> Tensor:
    if weight is None:
        return head
    return head / (head.square().mean() + EPS).sqrt() * (offset + weight.double())


def _loop(
    qkv: Tensor, positions: Tensor, table: Tensor, heads: tuple[int, int],
    weights: tuple[Tensor | None, Tensor | None], offset: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    num_heads, num_kv_heads = heads
    split = qkv.double().view(qkv.shape[0], num_heads + 2 * num_kv_heads, -1)
    out = split.clone()
    for t in range(qkv.shape[0]):
        for h in range(num_heads + num_kv_heads):
            weight = weights[0] if h < num_heads else weights[1]
            normed = _norm(split[t, h], weight, offset)
            out[t, h] = _rotate(normed, table[int(positions[t])])
    ends = (num_heads, num_heads + num_kv_heads)
    return out[:, : ends[0]], out[:, ends[0] : ends[1]], out[:, ends[1] :]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("offset", [None, 0.0, 1.0])
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "num_kv_heads", "head_dim"),
    [(1, 1, 1, 16), (5, 4, 2, 20), (3, 7, 1, 64), (2, 3, 3, 256)],
)
def test_against_a_loop(
    dtype: torch.dtype, offset: float | None, num_tokens: int, num_heads: int, num_kv_heads: int,
    head_dim: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(head_dim + num_tokens)
    width = (num_heads + 2 * num_kv_heads) * head_dim
    qkv = torch.randn(num_tokens, width, generator=generator).to(dtype)
    positions = torch.randint(0, 90, (num_tokens,), generator=generator)
    weights: tuple[Tensor | None, Tensor | None] = (None, None)
    if offset is not None:
        drawn = torch.randn(2, head_dim, generator=generator).to(dtype)
        weights = (drawn[0], drawn[1])
    before = qkv.clone()
    table = _table(90, head_dim)
    got = qkv_rope_store(
        qkv,
        table[positions],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        q_norm_weight=weights[0],
        k_norm_weight=weights[1],
        norm_eps=EPS,
        norm_offset=offset or 0.0,
    )
    expected = _loop(qkv, positions, table, (num_heads, num_kv_heads), weights, offset or 0.0)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=2 * tolerance)
    assert torch.equal(got[2].flatten(), expected[2].to(dtype).flatten()), "values are copies"
    assert torch.equal(qkv, before), "the projections were written to"


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_stores_its_slots_and_nothing_else(with_norm: bool, page_size: int) -> None:
    num_tokens, num_heads, num_kv_heads, head_dim, num_pages = 5, 3, 2, 18, 6
    generator = torch.Generator().manual_seed(page_size)
    qkv = torch.randn(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim, generator=generator)
    slots = torch.randperm(num_pages * page_size, generator=generator)[:num_tokens]
    shape = (num_pages, num_kv_heads, page_size, head_dim)
    caches = [torch.full(shape, torch.nan) for _ in range(2)]
    norm = torch.linspace(0.5, 1.5, head_dim) if with_norm else None
    queries, keys, values = qkv_rope_store(
        qkv,
        _table(8, head_dim)[torch.tensor([4, 0, 1, 7, 2])],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        q_norm_weight=norm,
        k_norm_weight=norm,
        key_cache=caches[0],
        value_cache=caches[1],
        slot_mapping=torch.stack((slots // page_size, slots % page_size)),
    )
    assert queries.isfinite().all()
    for cache, rows in zip(caches, (keys, values), strict=True):
        written = torch.zeros(num_pages, page_size, dtype=torch.bool)
        for token, slot in enumerate(slots.tolist()):
            page, offset = divmod(slot, page_size)
            assert torch.equal(cache[page, :, offset], rows[token])
            written[page, offset] = True
        untouched = cache.transpose(1, 2)[~written]
        assert untouched.numel() and untouched.isnan().all()


def test_padding_rows_share_page_zero() -> None:
    qkv = torch.randn(3, 3 * 8, generator=torch.Generator().manual_seed(0))
    cache = torch.full((3, 1, 2, 8), torch.nan)
    qkv_rope_store(
        qkv,
        _table(4, 8)[torch.tensor([0, 3, 3])],
        num_heads=1,
        num_kv_heads=1,
        key_cache=cache,
        value_cache=cache.clone(),
        slot_mapping=torch.tensor([[2, 0, 0], [1, 0, 0]]),
    )
    assert cache[2, 0, 1].isfinite().all()
    assert cache[1].isnan().all() and cache[2, 0, 0].isnan().all()
