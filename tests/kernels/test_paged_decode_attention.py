"""Paged decode attention, reference and kernel in every cut, against float64 over positions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gloss_kernels import DecodePlan
from gloss_kernels.decode_cut import Cut, choose_cut
from support.attention_loop import attend, behind_prefix
from support.backends import DTYPES, REFERENCE, TRITON, Backend

# Two units of roundoff of 16-bit types. The output rounds once; the kernel rounds the weights of a
# softmax too, which shifts the mean of |values| about 1 by a unit at most. float32: sums of up to
# 180 terms.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
# What stands in slots that belong to nobody yet. For the reference finite, as in the engine's pool,
# yet so large that any weight on it shows; the kernel reads none of them.
GARBAGE = {"reference": 1e4, "triton": torch.nan}


@dataclass(frozen=True)
class Way:
    """A backend; for the kernel also a cut that is forced instead of chosen."""

    backend: Backend
    cut: Cut | None = None

    def __str__(self) -> str:
        if self.cut is None:
            return str(self.backend)
        return f"{'shared' if self.cut.shares_prefix else 'whole'}-{self.cut.splits}"


def _forced(shares_prefix: bool, splits: int) -> Way:
    # The smallest blocks, so that short sequences have several.
    cut = Cut(shares_prefix=shares_prefix, splits=splits, block=16, stages=3, prefix_block=16)
    return Way(TRITON, cut)


PLAIN = [Way(REFERENCE), Way(TRITON)]
CUTS = [_forced(False, 1), _forced(True, 1), _forced(False, 2), _forced(True, 5)]
EVERY = [*PLAIN, _forced(True, 1), _forced(True, 2)]
WAYS = [pytest.param(way, id=str(way)) for way in EVERY]
FORCED = [pytest.param(way, id=str(way)) for way in CUTS]
WAY_DTYPES = [
    pytest.param(way, dtype, id=f"{way}-{str(dtype).removeprefix('torch.')}")
    for way in EVERY
    for dtype in DTYPES[way.backend.name]
]


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Case:
    """Sequences written into pages in a scattered order; every other slot holds garbage."""

    def __init__(
        self,
        way: Way,
        lens: list[int],
        *,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 24,
        page_size: int = 4,
        prefix_len: int | None = 9,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        num_heads, num_kv_heads = heads
        self.way, self.lens, self.prefix_len, self.dtype = way, lens, prefix_len, dtype
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
        garbage = GARBAGE[way.backend.name]
        self.caches = [torch.full(shape, garbage, dtype=dtype) for _ in range(2)]
        # Pages 0 and the last two are nobody's; page 0 fills tables, the others stand in none.
        for cache in self.caches:
            cache[-2:] = torch.nan
        self.table = torch.zeros(len(lens), max(counts, default=0) + 2, dtype=torch.int64)
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
        lens, device = self.lens[rows], self.way.backend.device
        plan = DecodePlan(
            self.table[rows].to(device),
            torch.tensor(lens, dtype=torch.int64, device=device),
            max_private_len=bound or max(lens, default=0),
            page_size=self.caches[0].shape[2],
            num_kv_heads=self.caches[0].shape[1],
            prefix_len=self.prefix_len or 0,
        )
        queries = self.queries.to(device)[rows]
        keys, values = (cache.to(device) for cache in self.caches)
        prefix = None
        if self.prefix is not None:
            prefix = (self.prefix[0].to(device), self.prefix[1].to(device))
        if self.way.cut is None:
            out = self.way.backend.ops.paged_decode_attention(
                queries, keys, values, plan, prefix=prefix, scale=scale, window=window
            )
            return out.cpu()
        # Imports triton, which must come after the choice of the interpreter.
        from gloss_kernels.paged_decode_attention import attend_in_cut

        out = attend_in_cut(
            self.way.cut, queries, keys, values, plan, prefix=prefix, scale=scale, window=window
        )
        return out.cpu()

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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("heads", [(3, 3), (4, 2), (7, 1), (16, 1)])
@pytest.mark.parametrize("head_dim", [16, 20, 80, 256])
def test_head_groups_and_widths(way: Way, heads: tuple[int, int], head_dim: int) -> None:
    Case(way, [5, 1, 8], heads=heads, head_dim=head_dim).check()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefix_len", [None, 1, 9])
@pytest.mark.parametrize("window", [None, 1, 4, 9, 10, 14, 100])
def test_windows_reach_into_the_prefix(
    way: Way, prefix_len: int | None, window: int | None
) -> None:
    Case(way, [6, 1, 9, 4], prefix_len=prefix_len).check(window)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("lens", [[1], [16, 17, 15], [1, 33, 2], [3, 6, 9]])
def test_lengths_and_page_sizes(way: Way, page_size: int, lens: list[int]) -> None:
    Case(way, lens, page_size=page_size).check()


@pytest.mark.parametrize(("way", "dtype"), WAY_DTYPES)
def test_dtypes(way: Way, dtype: torch.dtype) -> None:
    Case(way, [3, 8, 1], dtype=dtype).check(window=5)


@pytest.mark.parametrize("way", WAYS)
def test_a_loose_bound_changes_nothing(way: Way) -> None:
    Case(way, [3, 5]).check(bound=13)


@pytest.mark.parametrize("way", WAYS)
def test_pages_behind_the_bound_are_not_read(way: Way) -> None:
    case = Case(way, [3, 7], page_size=4)
    clean = case.run(None, 0.2)
    case.table[:, 2:] = case.caches[0].shape[0] - 1
    assert torch.equal(case.run(None, 0.2), clean)


@pytest.mark.parametrize("way", WAYS)
def test_table_entries_past_a_length_may_name_any_page(way: Way) -> None:
    case = Case(way, [3, 13], page_size=4)
    clean = case.run(None, 0.2)
    case.table[0, 1:] = case.table[1, 0]
    assert torch.equal(case.run(None, 0.2), clean)


@pytest.mark.parametrize("way", WAYS)
def test_a_poisoned_sequence_stays_alone(way: Way) -> None:
    case = Case(way, [5, 6, 7])
    clean = case.run(None, 0.2)
    page = int(case.table[1, 1])
    for cache in case.caches:
        cache[page, :, 0] = torch.nan
    out = case.run(None, 0.2)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("way", PLAIN, ids=str)
def test_a_row_is_the_same_alone_and_in_company(way: Way) -> None:
    case = Case(way, [5, 12, 7])
    together = case.run(6, 0.2)
    for i in range(3):
        alone = case.run(6, 0.2, rows=slice(i, i + 1))
        # Another number of padded keys may change the order of float32 sums.
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", PLAIN, ids=str)
@pytest.mark.parametrize(
    "places",
    [[1, 2, 3, 4], [4, 2, 1, 3], [6, 2, 3, 5], [9, 1, 2, 4]],
    ids=["in order", "out of order", "a hole in a dense span", "too sparse to read in place"],
)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("prefix_len", [None, 9])
def test_one_page_each_wherever_it_stands(
    way: Way, places: list[int], window: int | None, prefix_len: int | None
) -> None:
    """One page a sequence is read in place if the span is dense; idle pages in it hold NaN."""
    case = Case(way, [3, 16, 9, 1], page_size=16, prefix_len=prefix_len)
    target = torch.tensor(places)
    for index, cache in enumerate(case.caches):
        moved = torch.full((11, *cache.shape[1:]), torch.nan)
        moved[target] = cache[case.table[:, 0]]
        case.caches[index] = moved
    case.table[:, 0] = target
    case.check(window)


@pytest.mark.parametrize("way", FORCED)
@pytest.mark.parametrize("window", [None, 33, 40, 41, 64, 72, 73, 110, 134])
def test_windows_cut_a_prefix_of_several_blocks(way: Way, window: int | None) -> None:
    """Lengths 40 and 64 with windows as long see nothing of the prefix; one longer, one key."""
    Case(way, [40, 5, 64], heads=(7, 1), prefix_len=70).check(window)


@pytest.mark.parametrize("way", FORCED)
@pytest.mark.parametrize("heads", [(7, 1), (16, 1)])
def test_several_tiles_of_sequences(way: Way, heads: tuple[int, int]) -> None:
    """64 rows hold 9 sequences of 7 heads, or 4 of 16."""
    Case(way, [1 + 7 * i % 20 for i in range(12)], heads=heads, head_dim=16).check(window=18)


@pytest.mark.parametrize("way", FORCED)
@pytest.mark.parametrize("prefix_len", [None, 16, 33])
def test_lengths_around_the_edges_of_blocks(way: Way, prefix_len: int | None) -> None:
    Case(way, [15, 16, 17, 32, 33, 80], heads=(2, 1), page_size=3, prefix_len=prefix_len).check()


@pytest.mark.parametrize("way", FORCED)
def test_the_batch_changes_no_bit_of_a_row(way: Way) -> None:
    """Neither the sequences beside it, nor its place in a tile, nor the bound."""
    lens = [5, 40, 7, 33, 1, 18, 26, 12, 3, 9, 21]
    case = Case(way, lens, heads=(7, 1), prefix_len=37, dtype=torch.float16)
    together = case.run(30, 0.2)
    for rows in (slice(0, 1), slice(1, 2), slice(3, 6), slice(9, 11)):
        assert torch.equal(case.run(30, 0.2, rows=rows, bound=64), together[rows])


@pytest.mark.parametrize("way", FORCED)
def test_a_poisoned_query_stays_alone(way: Way) -> None:
    case = Case(way, [5, 6, 7])
    clean = case.run(None, 0.2)
    case.queries[1, 2] = torch.nan
    out = case.run(None, 0.2)
    assert out[1, 2].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]]) and torch.equal(out[1, :2], clean[1, :2])


@pytest.mark.parametrize("way", PLAIN + CUTS[1:2], ids=str)
def test_queries_in_rows_of_a_wider_tensor(way: Way) -> None:
    case = Case(way, [5, 1, 8])
    clean = case.run(None, 0.2)
    wide = torch.full((5, 7, 24), torch.nan)
    wide[1:4, 2:6] = case.queries
    case.queries = wide[1:4, 2:6]
    assert torch.equal(case.run(None, 0.2), clean)


@pytest.mark.parametrize("way", WAYS)
def test_large_scores_do_not_overflow(way: Way) -> None:
    """exp(s) of the largest would be infinite in float32, and of the smallest 0."""
    case = Case(way, [20, 40], heads=(2, 2), head_dim=16, prefix_len=20)
    case.queries *= 100
    case.check(window=45)


@pytest.mark.parametrize("way", PLAIN, ids=str)
@pytest.mark.parametrize("prefix_len", [None, 9])
def test_no_sequence(way: Way, prefix_len: int | None) -> None:
    Case(way, [], prefix_len=prefix_len).check()


def _plan(n: int, max_private_len: int) -> DecodePlan:
    """Of meta tensors: neither a plan nor a cut may read values on the host."""
    lens = torch.empty(n, dtype=torch.int64, device="meta")
    return DecodePlan(
        lens.new_empty(n, 300),
        lens,
        max_private_len=max_private_len,
        page_size=16,
        num_kv_heads=4,
        prefix_len=100,
    )


@pytest.mark.parametrize(
    ("n", "longest", "window", "shares", "splits"),
    [
        (1, 145, None, False, 1),  # one launch
        (1, 3996, None, False, 16),
        (1, 3996, 1024, False, 4),  # a window bounds what there is to split
        (33, 3996, None, False, 2),  # two programs a multiprocessor are enough
        (64, 145, None, False, 1),
        (256, 145, None, True, 1),
        (256, 3996, None, True, 1),
    ],
)
def test_the_cut_follows_the_shape(
    n: int, longest: int, window: int | None, shares: bool, splits: int
) -> None:
    cut = choose_cut(
        _plan(n, longest), row_bytes=256, prefix_len=100, window=window, multiprocessors=132
    )
    assert (cut.shares_prefix, cut.splits) == (shares, splits)


def test_blocks_are_smaller_where_programs_share_a_multiprocessor() -> None:
    blocks = [
        choose_cut(
            _plan(n, 145), row_bytes=row_bytes, prefix_len=100, window=None, multiprocessors=132
        ).block
        for n, row_bytes in ((1, 256), (256, 256), (256, 32), (256, 1024))
    ]
    assert blocks == [64, 32, 128, 32]
