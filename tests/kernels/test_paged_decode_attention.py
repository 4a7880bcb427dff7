"""Paged decode attention against one query at a time in float64 over absolute positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_kernels import DecodePlan
from gloss_kernels.reference.paged_decode_attention import paged_decode_attention
from support.attention_loop import attend, behind_prefix

# float32 sums of up to 60 terms; 16-bit inputs are exact in float32, the output rounds once.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
# What stands in slots that belong to nobody yet: finite, as in the engine's pool, yet so large
# that any weight on it shows.
GARBAGE = 1e4


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Case:
    """Sequences written into pages in a scattered order; every other slot holds garbage."""

    def __init__(
        self,
        lens: list[int],
        *,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 24,
        page_size: int = 4,
        prefix_len: int | None = 9,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        num_heads, num_kv_heads = heads
        self.lens, self.prefix_len, self.dtype = lens, prefix_len, dtype
        self.queries = _drawn(len(lens), num_heads, head_dim, seed=1, dtype=dtype)
        self.own = [
            [_drawn(num_kv_heads, n, head_dim, seed=10 * i + s, dtype=dtype) for s in (2, 3)]
            for i, n in enumerate(lens)
        ]
        self.prefix = None
        if prefix_len is not None:
            drawn = [
                _drawn(num_kv_heads, prefix_len, head_dim, seed=s, dtype=dtype) for s in (4, 5)
            ]
            self.prefix = (drawn[0], drawn[1])
        counts = [-(-n // page_size) for n in lens]
        order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0)) + 1
        shape = (sum(counts) + 3, num_kv_heads, page_size, head_dim)
        self.caches = [torch.full(shape, GARBAGE, dtype=dtype) for _ in range(2)]
        # Pages 0 and the last two are nobody's; page 0 fills tables, the others stand in none.
        for cache in self.caches:
            cache[-2:] = torch.nan
        self.table = torch.zeros(len(lens), max(counts) + 2, dtype=torch.int64)
        taken = 0
        for i, count in enumerate(counts):
            self.table[i, :count] = order[taken : taken + count]
            taken += count
            for t in range(lens[i]):
                page = int(self.table[i, t // page_size])
                for cache, rows in zip(self.caches, self.own[i], strict=True):
                    cache[page, :, t % page_size] = rows[:, t]

    def run(
        self, window: int | None, scale: float, bound: int | None = None, rows: slice = slice(None)
    ) -> Tensor:
        lens = self.lens[rows]
        plan = DecodePlan(
            self.table[rows],
            torch.tensor(lens),
            max_private_len=bound or max(lens),
            page_size=self.caches[0].shape[2],
            num_kv_heads=self.caches[0].shape[1],
            prefix_len=self.prefix_len or 0,
        )
        return paged_decode_attention(
            self.queries[rows], *self.caches, plan, prefix=self.prefix, scale=scale, window=window
        )

    def check(self, window: int | None = None, bound: int | None = None) -> None:
        scale = 1.3 * self.queries.shape[2] ** -0.5
        out = self.run(window, scale, bound)
        assert out.shape == self.queries.shape and out.dtype == self.dtype
        for i, length in enumerate(self.lens):
            seen = [
                behind_prefix(None if self.prefix is None else self.prefix[part], own)
                for part, own in enumerate(self.own[i])
            ]
            expected = attend(
                self.queries[i],
                *seen,
                position=(self.prefix_len or 0) + length - 1,
                scale=scale,
                window=window,
            )
            tolerance = TOLERANCES[self.dtype]
            torch.testing.assert_close(out[i].double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("heads", [(3, 3), (4, 2), (7, 1)])
@pytest.mark.parametrize("head_dim", [16, 20, 80, 256])
def test_head_groups_and_widths(heads: tuple[int, int], head_dim: int) -> None:
    Case([5, 1, 8], heads=heads, head_dim=head_dim).check()


@pytest.mark.parametrize("prefix_len", [None, 1, 9])
@pytest.mark.parametrize("window", [None, 1, 4, 9, 10, 14, 100])
def test_windows_reach_into_the_prefix(prefix_len: int | None, window: int | None) -> None:
    Case([6, 1, 9, 4], prefix_len=prefix_len).check(window)


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("lens", [[1], [16, 17, 15], [1, 33, 2], [3, 6, 9]])
def test_lengths_and_page_sizes(page_size: int, lens: list[int]) -> None:
    Case(lens, page_size=page_size).check()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_dtypes(dtype: torch.dtype) -> None:
    Case([3, 8, 1], dtype=dtype).check(window=5)


def test_a_loose_bound_changes_nothing() -> None:
    Case([3, 5]).check(bound=13)


def test_pages_behind_the_bound_are_not_read() -> None:
    case = Case([3, 7], page_size=4)
    clean = case.run(None, 0.2)
    case.table[:, 2:] = case.caches[0].shape[0] - 1
    assert torch.equal(case.run(None, 0.2), clean)


def test_table_entries_past_a_length_may_name_any_page() -> None:
    case = Case([3, 13], page_size=4)
    clean = case.run(None, 0.2)
    case.table[0, 1:] = case.table[1, 0]
    assert torch.equal(case.run(None, 0.2), clean)


def test_a_poisoned_sequence_stays_alone() -> None:
    case = Case([5, 6, 7])
    clean = case.run(None, 0.2)
    page = int(case.table[1, 1])
    for cache in case.caches:
        cache[page, :, 0] = torch.nan
    out = case.run(None, 0.2)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


def test_a_row_is_the_same_alone_and_in_company() -> None:
    case = Case([5, 12, 7])
    together = case.run(6, 0.2)
    for i in range(3):
        alone = case.run(6, 0.2, rows=slice(i, i + 1))
        # Another number of padded keys may change the order of float32 sums.
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "places",
    [[1, 2, 3, 4], [4, 2, 1, 3], [6, 2, 3, 5], [9, 1, 2, 4]],
    ids=["in order", "out of order", "a hole in a dense span", "too sparse to read in place"],
)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("prefix_len", [None, 9])
def test_one_page_each_wherever_it_stands(
    places: list[int], window: int | None, prefix_len: int | None
) -> None:
    """One page a sequence is read in place if the span is dense; idle pages in it hold NaN."""
    case = Case([3, 16, 9, 1], page_size=16, prefix_len=prefix_len)
    target = torch.tensor(places)
    for index, cache in enumerate(case.caches):
        moved = torch.full((11, *cache.shape[1:]), torch.nan)
        moved[target] = cache[case.table[:, 0]]
        case.caches[index] = moved
    case.table[:, 0] = target
    case.check(window)
