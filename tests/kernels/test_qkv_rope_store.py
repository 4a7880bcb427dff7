"""Bias, norm, rotation and store, reference and kernel, against a loop over heads in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.backends import BACKEND_DTYPES, BACKENDS, Backend

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
    qkv: Tensor, positions: Tensor, table: Tensor, heads: tuple[int, int], bias: Tensor | None,
    weights: tuple[Tensor | None, Tensor | None], offset: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    num_heads, num_kv_heads = heads
    total = qkv.double() if bias is None else qkv.double() + bias.double()
    split = total.view(qkv.shape[0], num_heads + 2 * num_kv_heads, -1)
    out = split.clone()
    for t in range(qkv.shape[0]):
        for h in range(num_heads + num_kv_heads):
            weight = weights[0] if h < num_heads else weights[1]
            normed = _norm(split[t, h], weight, offset)
            out[t, h] = _rotate(normed, table[int(positions[t])])
    ends = (num_heads, num_heads + num_kv_heads)
    return out[:, : ends[0]], out[:, ends[0] : ends[1]], out[:, ends[1] :]


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("offset", [None, 0.0, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "num_kv_heads", "head_dim"),
    [(1, 1, 1, 16), (5, 4, 2, 20), (3, 7, 1, 64), (2, 3, 3, 256), (2, 9, 2, 10), (1, 2, 1, 2)],
)
def test_against_a_loop(
    backend: Backend, dtype: torch.dtype, offset: float | None, with_bias: bool, num_tokens: int,
    num_heads: int, num_kv_heads: int, head_dim: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(head_dim + num_tokens)
    width = (num_heads + 2 * num_kv_heads) * head_dim
    qkv = torch.randn(num_tokens, width, generator=generator).to(dtype)
    bias = torch.randn(width, generator=generator).to(dtype) if with_bias else None
    positions = torch.randint(0, 90, (num_tokens,), generator=generator)
    weights: tuple[Tensor | None, Tensor | None] = (None, None)
    if offset is not None:
        drawn = torch.randn(2, head_dim, generator=generator).to(dtype)
        weights = (drawn[0], drawn[1])
    table, on_device = _table(90, head_dim), qkv.clone().to(backend.device)
    got = backend.ops.qkv_rope_store(
        on_device,
        table[positions].to(backend.device),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        bias=None if bias is None else bias.to(backend.device),
        q_norm_weight=None if weights[0] is None else weights[0].to(backend.device),
        k_norm_weight=None if weights[1] is None else weights[1].to(backend.device),
        norm_eps=EPS,
        norm_offset=offset or 0.0,
    )
    heads = (num_heads, num_kv_heads)
    expected = _loop(qkv, positions, table, heads, bias, weights, offset or 0.0)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(mine.double().cpu(), theirs, rtol=tolerance, atol=2 * tolerance)
    assert torch.equal(got[2].cpu(), expected[2].to(dtype)), "values are rounded once"
    assert torch.equal(on_device.cpu(), qkv), "the projections were written to"


def _eighth_turn(num_tokens: int, head_dim: int, device: torch.device) -> Tensor:
    """Cosines and sines of 45 degrees: where both halves of a head are one, the first becomes 0."""
    cos_sin = torch.full((num_tokens, 2, head_dim), 0.5**0.5)
    cos_sin[:, 1, : head_dim // 2] *= -1
    return cos_sin.to(device)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_a_large_bias_does_not_swallow_the_projection(backend: Backend, dtype: torch.dtype) -> None:
    # 256 + p in 16 bits has steps of 1/4 or 2, larger than p; turned, the 256 cancel.
    projected = torch.linspace(-0.06, 0.06, 3 * 8).to(dtype).view(1, -1)
    bias = torch.full((3 * 8,), 256.0, dtype=dtype)
    queries, keys, values = backend.ops.qkv_rope_store(
        projected.to(backend.device),
        _eighth_turn(1, 8, backend.device),
        num_heads=1,
        num_kv_heads=1,
        bias=bias.to(backend.device),
    )
    first, second = projected.double().view(3, 8).chunk(2, dim=-1)
    for got, wanted in zip((queries, keys), (first - second)[:2] * 0.5**0.5, strict=True):
        # Two sums of 256 rounded to float32, and their products.
        torch.testing.assert_close(
            got[0, 0, :4].double().cpu(), wanted, rtol=TOLERANCES[dtype], atol=4 * 256 * 2.0**-24
        )
    total = (projected.double() + bias.double())[:, 16:]
    assert torch.equal(values.flatten().cpu(), total.flatten().to(dtype))


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_normed_heads_are_rounded_before_they_turn(backend: Backend, dtype: torch.dtype) -> None:
    # 1 + 2^-12 and 1 + 2^-11 * 0.9 are 1 in 16 bits; unrounded, their difference would be seen.
    weight = torch.tensor([2.0**-12] * 4 + [2.0**-11 * 0.9] * 4).to(dtype).to(backend.device)
    queries, keys, _ = backend.ops.qkv_rope_store(
        torch.ones(1, 3 * 8, dtype=dtype, device=backend.device),
        _eighth_turn(1, 8, backend.device),
        num_heads=1,
        num_kv_heads=1,
        q_norm_weight=weight,
        k_norm_weight=weight,
        norm_eps=1e-12,
        norm_offset=1.0,
    )
    for heads in (queries, keys):
        assert heads[..., :4].any().item() == (dtype == torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_epsilon_counts_for_small_heads(backend: Backend) -> None:
    ones = torch.ones(8, device=backend.device)
    rows = torch.full((1, 3 * 8), 1e-3, device=backend.device)
    no_turn = _table(1, 8).to(backend.device)
    queries, keys, _ = backend.ops.qkv_rope_store(
        rows, no_turn, num_heads=1, num_kv_heads=1,
        q_norm_weight=ones, k_norm_weight=ones, norm_eps=1e-6,
    )  # fmt: skip
    for heads in (queries, keys):
        torch.testing.assert_close(heads, torch.full_like(heads, 0.5**0.5))


def _caches(shape: tuple[int, ...], strided: bool, device: torch.device) -> list[Tensor]:
    """Keys and values of NaN; strided, one layer of a cache in which pages come after heads."""
    if not strided:
        return [torch.full(shape, torch.nan, device=device) for _ in range(2)]
    pages, heads, size, dim = shape
    whole = torch.full((2, heads, pages, 3, size, dim), torch.nan, device=device)
    return [layer[:, :, 1].transpose(0, 1) for layer in whole]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("strided", [False, True])
def test_stores_its_slots_and_nothing_else(
    backend: Backend, with_norm: bool, page_size: int, strided: bool
) -> None:
    num_tokens, num_heads, num_kv_heads, head_dim, num_pages = 5, 5, 2, 18, 6
    generator = torch.Generator().manual_seed(page_size)
    width = (num_heads + 2 * num_kv_heads) * head_dim
    qkv = torch.randn(num_tokens, width, generator=generator).to(backend.device)
    slots = torch.randperm(num_pages * page_size, generator=generator)[:num_tokens]
    caches = _caches((num_pages, num_kv_heads, page_size, head_dim), strided, backend.device)
    norm = torch.linspace(0.5, 1.5, head_dim, device=backend.device) if with_norm else None
    # As the engine has them: the first columns of a wider buffer.
    slot_mapping = torch.full((2, num_tokens + 3), 1 << 40, device=backend.device)
    slot_mapping[:, :num_tokens] = torch.stack((slots // page_size, slots % page_size))
    queries, keys, values = backend.ops.qkv_rope_store(
        qkv,
        _table(8, head_dim)[torch.tensor([4, 0, 1, 7, 2])].to(backend.device),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        q_norm_weight=norm,
        k_norm_weight=norm,
        key_cache=caches[0],
        value_cache=caches[1],
        slot_mapping=slot_mapping[:, :num_tokens],
    )
    assert queries.isfinite().all()
    for cache, rows in zip(caches, (keys, values), strict=True):
        written = torch.zeros(num_pages, page_size, dtype=torch.bool)
        for token, slot in enumerate(slots.tolist()):
            page, offset = divmod(slot, page_size)
            assert rows[token].isfinite().all() and torch.equal(cache[page, :, offset], rows[token])
            written[page, offset] = True
        untouched = cache.cpu().transpose(1, 2)[~written]
        assert untouched.numel() and untouched.isnan().all()
        around = cache._base if strided else None
        if around is not None:
            assert around[:, :, :, 0::2].isnan().all(), "the layers beside it were written to"


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_rows_share_page_zero(backend: Backend) -> None:
    device = backend.device
    qkv = torch.randn(3, 3 * 8, generator=torch.Generator().manual_seed(0)).to(device)
    cache = torch.full((3, 1, 2, 8), torch.nan, device=device)
    backend.ops.qkv_rope_store(
        qkv,
        _table(4, 8)[torch.tensor([0, 3, 3])].to(device),
        num_heads=1,
        num_kv_heads=1,
        key_cache=cache,
        value_cache=cache.clone(),
        slot_mapping=torch.tensor([[2, 0, 0], [1, 0, 0]], device=device),
    )
    assert cache[2, 0, 1].isfinite().all()
    assert cache[1].isnan().all() and cache[2, 0, 0].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", [0, 3, 8])
def test_rows_of_a_wider_tensor(backend: Backend, start: int) -> None:
    wide = torch.randn(4, 100, generator=torch.Generator().manual_seed(start)).to(backend.device)
    rows, cos_sin = wide[:, start : start + 72], _table(4, 12).to(backend.device)
    assert not rows.is_contiguous()
    for strided, plain in zip(
        backend.ops.qkv_rope_store(rows, cos_sin, num_heads=2, num_kv_heads=2),
        backend.ops.qkv_rope_store(rows.contiguous(), cos_sin, num_heads=2, num_kv_heads=2),
        strict=True,
    ):
        assert torch.equal(strided, plain)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("head", [1, 4, 6])
def test_a_poisoned_head_stays_alone(backend: Backend, with_norm: bool, head: int) -> None:
    norm = torch.ones(8, device=backend.device) if with_norm else None
    qkv = torch.randn(3, 7 * 8, generator=torch.Generator().manual_seed(2)).to(backend.device)

    def run() -> Tensor:
        parts = backend.ops.qkv_rope_store(
            qkv, _table(3, 8).to(backend.device), num_heads=3, num_kv_heads=2,
            q_norm_weight=norm, k_norm_weight=norm,
        )  # fmt: skip
        return torch.cat(parts, dim=1)

    clean = run()
    qkv[1, head * 8 + 3] = torch.nan
    poisoned = run()
    hit = torch.zeros(3, 7, dtype=torch.bool, device=backend.device)
    hit[1, head] = True
    assert torch.equal(poisoned.isnan().any(-1), hit)
    assert torch.equal(poisoned[~hit], clean[~hit])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens(backend: Backend) -> None:
    cache = torch.full((2, 2, 4, 6), torch.nan, device=backend.device)
    parts = backend.ops.qkv_rope_store(
        torch.zeros(0, 7 * 6, device=backend.device),
        torch.zeros(0, 2, 6, device=backend.device),
        num_heads=3,
        num_kv_heads=2,
        bias=torch.ones(7 * 6, device=backend.device),
        key_cache=cache,
        value_cache=cache,
        slot_mapping=torch.zeros(2, 0, dtype=torch.int64, device=backend.device),
    )
    assert [part.shape for part in parts] == [(0, 3, 6), (0, 2, 6), (0, 2, 6)]
    assert cache.isnan().all()
