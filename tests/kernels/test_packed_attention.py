"""Packed attention, reference and kernel, against one query at a time in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_kernels import PackedPlan
from support.attention_loop import attend, behind_prefix
from support.backends import BACKEND_DTYPES, BACKENDS, REFERENCE, TRITON, TRITON_DTYPES, Backend

# Of the interpreter, which is numpy: products with infinities.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

# float32 sums of up to 200 terms. 16-bit inputs are exact in float32; the kernel rounds weights to
# 16 bits and both round the output: half a step each, of values that average below 1.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
# Tensor cores take other tiles than float32, so what is about tiles runs in 16 bits.
TILED = [
    pytest.param(TRITON, dtype, id=str(dtype)[6:])
    for dtype in TRITON_DTYPES
    if dtype != torch.float32
]


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _plan(lengths: list[int], device: torch.device, max_seqlen: int | None = None) -> PackedPlan:
    starts = torch.tensor([0, *lengths]).cumsum(0).to(device)
    longest = max(lengths) if max_seqlen is None else max_seqlen
    return PackedPlan(starts, num_tokens=sum(lengths), max_seqlen=longest)


def _check(
    backend: Backend,
    lengths: list[int],
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 24,
    prefix_len: int | None = 9,
    window: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_seqlen: int | None = None,
) -> None:
    num_heads, num_kv_heads = heads
    total = sum(lengths)
    queries = _drawn(total, num_heads, head_dim, seed=1, dtype=dtype)
    keys, values = (_drawn(total, num_kv_heads, head_dim, seed=s, dtype=dtype) for s in (2, 3))
    prefix = None
    if prefix_len is not None:
        drawn = [_drawn(num_kv_heads, prefix_len, head_dim, seed=s, dtype=dtype) for s in (4, 5)]
        prefix = (drawn[0], drawn[1])
    scale = 1.3 * head_dim**-0.5
    device = backend.device
    out = backend.ops.packed_attention(
        *(packed.to(device) for packed in (queries, keys, values)),
        _plan(lengths, device, max_seqlen),
        prefix=None if prefix is None else (prefix[0].to(device), prefix[1].to(device)),
        scale=scale,
        window=window,
    )
    assert out.shape == queries.shape and out.dtype == dtype
    expected, start = torch.empty(queries.shape, dtype=torch.float64), 0
    for length in lengths:
        rows = slice(start, start + length)
        seen = [
            behind_prefix(None if prefix is None else prefix[part], own[rows].transpose(0, 1))
            for part, own in enumerate((keys, values))
        ]
        for t in range(length):
            expected[start + t] = attend(
                queries[start + t],
                *seen,
                position=(prefix_len or 0) + t,
                scale=scale,
                window=window,
            )
        start += length
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out.double().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads", [(3, 3), (4, 2), (7, 1), (16, 2)])
@pytest.mark.parametrize("head_dim", [16, 20, 80, 256])
def test_head_groups_and_widths(backend: Backend, heads: tuple[int, int], head_dim: int) -> None:
    _check(backend, [5, 1, 7], heads=heads, head_dim=head_dim)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prefix_len", [None, 1, 9])
@pytest.mark.parametrize("window", [None, 1, 4, 9, 10, 14, 100])
def test_windows_reach_into_the_prefix(
    backend: Backend, prefix_len: int | None, window: int | None
) -> None:
    _check(backend, [6, 1, 9], prefix_len=prefix_len, window=window)


@pytest.mark.parametrize("prefix_len", [None, 9, 140])
@pytest.mark.parametrize("window", [None, 7, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_sequences_one_by_one(
    prefix_len: int | None, window: int | None, dtype: torch.dtype
) -> None:
    """What the reference does with them on a CPU, short and empty ones among them."""
    lengths = [131, 0, 3, 160]
    _check(REFERENCE, lengths, prefix_len=prefix_len, window=window, dtype=dtype, head_dim=16)


def test_long_sequences_keep_to_themselves() -> None:
    queries, keys, values = (_drawn(280, 2, 16, seed=seed) for seed in (1, 2, 3))
    lengths = [140, 140]
    run = REFERENCE.ops.packed_attention
    plan = _plan(lengths, queries.device)
    clean = run(queries, keys, values, plan, prefix=None, scale=0.3, window=None)
    values[200], keys[210] = torch.nan, torch.inf
    spoilt = run(queries, keys, values, plan, prefix=None, scale=0.3, window=None)
    assert torch.equal(spoilt[:140], clean[:140]) and spoilt[210:].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [13], [4, 4, 4], [2, 11, 1, 5]])
@pytest.mark.parametrize("max_seqlen", [None, 17])
def test_lengths(backend: Backend, lengths: list[int], max_seqlen: int | None) -> None:
    _check(backend, lengths, max_seqlen=max_seqlen)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_dtypes(backend: Backend, dtype: torch.dtype) -> None:
    _check(backend, [3, 8], dtype=dtype, window=5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[3, 0, 1, 2], [0, 0, 4], [2, 0], [0, 30, 0, 0, 30, 0]])
def test_empty_sequences_among_others(backend: Backend, lengths: list[int]) -> None:
    _check(backend, lengths, prefix_len=35)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_more_heads_than_a_tile_has_rows(backend: Backend, dtype: torch.dtype) -> None:
    _check(backend, [2, 3], heads=(71, 1), dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_no_tokens(backend: Backend, lengths: list[int]) -> None:
    queries, keys = (torch.empty(0, heads, 16, device=backend.device) for heads in (4, 2))
    plan = _plan(lengths, backend.device, max_seqlen=3)
    options: dict[str, Any] = {"prefix": None, "scale": 1.0, "window": None}
    out = backend.ops.packed_attention(queries, keys, keys, plan, **options)
    assert out.shape == queries.shape


# A tile is 9 tokens of 7 heads, a block 32 keys.
# Suffixes that share tiles, behind a prefix of several blocks; texts of several tiles and blocks.
@pytest.mark.parametrize(
    ("backend", "dtype"), [*TILED, pytest.param(REFERENCE, torch.float32, id="reference")]
)
@pytest.mark.parametrize("lengths", [[5, 1, 5, 5, 2, 5], [70], [12, 41, 3]], ids=str)
@pytest.mark.parametrize("window", [None, 3, 30, 45, 69, 75, 100])
def test_tiles_and_blocks(
    backend: Backend, dtype: torch.dtype, lengths: list[int], window: int | None
) -> None:
    # With a prefix of 70 the windows end in the sequence, at its edge or in the prefix.
    _check(
        backend,
        lengths,
        heads=(7, 1),
        head_dim=16,
        prefix_len=None if window == 30 else 70,
        window=window,
        dtype=dtype,
    )


@pytest.mark.parametrize(("backend", "dtype"), TILED)
@pytest.mark.parametrize(("head_dim", "prefix_len"), [(16, 5), (136, None)])
def test_the_tiles_of_a_large_batch(
    backend: Backend, dtype: torch.dtype, head_dim: int, prefix_len: int | None
) -> None:
    # 2 tiles of 18 tokens for each of 66 heads occupy an H200: the tile of 128 rows.
    _check(backend, [7, 12], heads=(462, 66), head_dim=head_dim, prefix_len=prefix_len, dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_of_a_packed_projection(backend: Backend) -> None:
    rows = _drawn(9, 3 * 2 + 4, 16, seed=9).to(backend.device)
    # The first rows of a step are decoded, and stand apart.
    queries, keys, values = (part[2:] for part in rows.split([6, 2, 2], dim=1))
    plan = _plan([2, 5], backend.device)
    options: dict[str, Any] = {"prefix": None, "scale": 0.2, "window": None}
    assert not queries.is_contiguous()
    views = (queries, keys, values)
    copies = [part.contiguous() for part in views]
    expected = backend.ops.packed_attention(*copies, plan, **options)
    assert torch.equal(backend.ops.packed_attention(*views, plan, **options), expected)
    for index in range(3):  # Rotated queries and keys are copies, values may stay a view.
        mixed = [*copies[:index], views[index], *copies[index + 1 :]]
        assert torch.equal(backend.ops.packed_attention(*mixed, plan, **options), expected)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_sequences_do_not_see_each_other(
    backend: Backend, dtype: torch.dtype, window: int | None, poison: float
) -> None:
    device = backend.device
    drawn = [_drawn(12, 2, 16, seed=s, dtype=dtype).to(device) for s in range(3)]
    prefix = tuple(_drawn(2, 40, 16, seed=s, dtype=dtype).to(device) for s in (4, 5))
    plan = _plan([3, 5, 4], device)
    options: dict[str, Any] = {"prefix": prefix, "scale": 0.25, "window": window}
    clean = backend.ops.packed_attention(*drawn, plan, **options)
    assert clean.isfinite().all()
    for poisoned in range(3):
        parts = [part.clone() for part in drawn]
        parts[poisoned][3:8] = poison
        out = backend.ops.packed_attention(*parts, plan, **options)
        assert torch.equal(out[:3], clean[:3]) and torch.equal(out[8:], clean[8:])
        assert not out[3:8].isfinite().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_poisoned_element_is_noticed_and_stays_in_its_sequence(backend: Backend) -> None:
    drawn = [
        _drawn(12, heads, 16, seed=s).to(backend.device) for s, heads in ((1, 4), (2, 2), (3, 2))
    ]
    plan = _plan([3, 5, 4], backend.device)
    options: dict[str, Any] = {"prefix": None, "scale": 0.25, "window": None}
    clean = backend.ops.packed_attention(*drawn, plan, **options)
    drawn[2][7, 1, 3] = torch.nan
    out = backend.ops.packed_attention(*drawn, plan, **options)
    assert torch.equal(out[:3], clean[:3]) and torch.equal(out[8:], clean[8:])
    assert out[7, 2:, 3].isnan().all() and torch.equal(out[:, :2], clean[:, :2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_poisoned_prefix_is_noticed_by_all_who_see_it(backend: Backend) -> None:
    drawn = [_drawn(6, 2, 16, seed=s).to(backend.device) for s in range(3)]
    keys, values = (_drawn(2, 4, 16, seed=s).to(backend.device) for s in (4, 5))
    plan = _plan([3, 3], backend.device)
    for poisoned in (keys, values):
        poisoned[:, 3] = torch.nan
        options: dict[str, Any] = {"prefix": (keys, values), "scale": 0.25, "window": None}
        assert backend.ops.packed_attention(*drawn, plan, **options).isnan().all()
        poisoned[:, 3] = 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_neither_overflow_nor_vanish(backend: Backend) -> None:
    queries, keys, values = (_drawn(20, 1, 16, seed=s).to(backend.device) for s in range(3))
    keys[0] = queries[-1] * 1e4
    for sign in (1, -1):
        options: dict[str, Any] = {"prefix": None, "scale": 1.0, "window": None}
        keys[1:] = sign * keys[0]
        out = backend.ops.packed_attention(
            queries, keys, values, _plan([20], queries.device), **options
        )
        last = values[:1] if sign < 0 else values.mean(0, keepdim=True)
        torch.testing.assert_close(out[-1:], last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_prefix_stands_before_every_sequence(backend: Backend) -> None:
    """A prefix is the same as writing its keys in front of each sequence."""
    device = backend.device
    prefix = tuple(_drawn(2, 5, 16, seed=s).to(device) for s in (4, 5))
    queries, keys, values = (
        _drawn(4, heads, 16, seed=s).to(device) for s, heads in ((1, 4), (2, 2), (3, 2))
    )
    options: dict[str, Any] = {"scale": 0.25, "window": 6}
    behind = backend.ops.packed_attention(
        queries, keys, values, _plan([4], device), prefix=prefix, **options
    )
    whole = backend.ops.packed_attention(
        torch.cat((torch.zeros(5, 4, 16, device=device), queries)),
        torch.cat((prefix[0].transpose(0, 1), keys)),
        torch.cat((prefix[1].transpose(0, 1), values)),
        _plan([9], device),
        prefix=None,
        **options,
    )
    torch.testing.assert_close(behind, whole[5:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_plan_serves_blocks_of_different_windows(backend: Backend) -> None:
    queries, keys, values = (_drawn(9, 2, 16, seed=s).to(backend.device) for s in range(3))
    prefix = tuple(_drawn(2, 4, 16, seed=s).to(backend.device) for s in (4, 5))
    plan = _plan([2, 7], backend.device)
    for window in (None, 3, 8, None):
        for behind in (prefix, None):
            options: dict[str, Any] = {"prefix": behind, "scale": 0.25, "window": window}
            fresh = _plan([2, 7], backend.device)
            again = backend.ops.packed_attention(queries, keys, values, plan, **options)
            assert torch.equal(
                again, backend.ops.packed_attention(queries, keys, values, fresh, **options)
            )


def test_starts_are_where_each_row_s_sequence_begins() -> None:
    plan = _plan([2, 0, 3, 1, 0], torch.device("cpu"))
    assert plan.starts.tolist() == [0, 0, 2, 2, 2, 5]
    assert plan.starts.dtype == torch.int32 and len(plan) == 5
