"""Packed attention against one query at a time in float64 over absolute positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_kernels.reference.packed_attention import packed_attention
from support.attention_loop import attend, behind_prefix

# float32 sums of up to 60 terms; 16-bit inputs are exact in float32, the output rounds once.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _check(
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
    starts = torch.tensor([0, *lengths]).cumsum(0)
    scale = 1.3 * head_dim**-0.5
    out = packed_attention(
        queries,
        keys,
        values,
        starts,
        max_seqlen=max_seqlen or max(lengths),
        prefix=prefix,
        scale=scale,
        window=window,
    )
    assert out.shape == queries.shape and out.dtype == dtype
    for start, length in zip(starts.tolist(), lengths, strict=False):
        rows = slice(start, start + length)
        seen = [
            behind_prefix(None if prefix is None else prefix[part], own[rows].transpose(0, 1))
            for part, own in enumerate((keys, values))
        ]
        for t in range(length):
            expected = attend(
                queries[start + t],
                *seen,
                position=(prefix_len or 0) + t,
                scale=scale,
                window=window,
            )
            tolerance = TOLERANCES[dtype]
            torch.testing.assert_close(
                out[start + t].double(), expected, rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("heads", [(3, 3), (4, 2), (7, 1)])
@pytest.mark.parametrize("head_dim", [16, 20, 80, 256])
def test_head_groups_and_widths(heads: tuple[int, int], head_dim: int) -> None:
    _check([5, 1, 7], heads=heads, head_dim=head_dim)


@pytest.mark.parametrize("prefix_len", [None, 1, 9])
@pytest.mark.parametrize("window", [None, 1, 4, 9, 10, 14, 100])
def test_windows_reach_into_the_prefix(prefix_len: int | None, window: int | None) -> None:
    _check([6, 1, 9], prefix_len=prefix_len, window=window)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [13], [4, 4, 4], [2, 11, 1, 5]])
@pytest.mark.parametrize("max_seqlen", [None, 17])
def test_lengths(lengths: list[int], max_seqlen: int | None) -> None:
    _check(lengths, max_seqlen=max_seqlen)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_dtypes(dtype: torch.dtype) -> None:
    _check([3, 8], dtype=dtype, window=5)


def test_an_empty_sequence_between_others() -> None:
    _check([3, 0, 1, 2])


def test_views_of_a_packed_projection() -> None:
    rows = _drawn(7, 3 * 2 + 4, 16, seed=9)
    queries, keys, values = rows.split([6, 2, 2], dim=1)
    starts = torch.tensor([0, 2, 7])
    options = {"max_seqlen": 5, "prefix": None, "scale": 0.2, "window": None}
    assert not queries.is_contiguous()
    out = packed_attention(queries, keys, values, starts, **options)
    copies = [part.contiguous() for part in (queries, keys, values)]
    assert torch.equal(out, packed_attention(*copies, starts, **options))


def test_sequences_do_not_see_each_other() -> None:
    queries, keys, values = (_drawn(8, 2, 16, seed=s) for s in (1, 2, 3))
    starts = torch.tensor([0, 3, 8])
    prefix = (_drawn(2, 4, 16, seed=4), _drawn(2, 4, 16, seed=5))
    options = {"max_seqlen": 5, "prefix": prefix, "scale": 0.25, "window": None}
    clean = packed_attention(queries, keys, values, starts, **options)
    for poisoned in (keys, values):
        poisoned[3:] = torch.nan
    out = packed_attention(queries, keys, values, starts, **options)
    assert torch.equal(out[:3], clean[:3]) and out[3:].isnan().all()


def test_the_prefix_stands_before_every_sequence() -> None:
    """A prefix is the same as writing its keys in front of each sequence."""
    prefix = (_drawn(2, 5, 16, seed=4), _drawn(2, 5, 16, seed=5))
    queries, keys, values = (_drawn(4, heads, 16, seed=s) for s, heads in ((1, 4), (2, 2), (3, 2)))
    options = {"scale": 0.25, "window": 6}
    behind = packed_attention(
        queries, keys, values, torch.tensor([0, 4]), max_seqlen=4, prefix=prefix, **options
    )
    blank = torch.zeros(5, 4, 16)
    whole = packed_attention(
        torch.cat((blank, queries)),
        torch.cat((prefix[0].transpose(0, 1), keys)),
        torch.cat((prefix[1].transpose(0, 1), values)),
        torch.tensor([0, 9]),
        max_seqlen=9,
        prefix=None,
        **options,
    )
    torch.testing.assert_close(behind, whole[5:], rtol=1e-5, atol=1e-6)
