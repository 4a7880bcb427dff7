"""What one decode step reads: tables, lengths and bounds, the same for every block.

`DecodePlan` is data that any backend reads; making one reads no tensor on the host. `PrivateRows`
is how the reference finds the keys. It is made on first use and kept with the plan, masks too, so
every block of a step shares it: the reference reads a cache in place where every sequence has one
page and these pages are dense, in page order and with idle pages among them; else it copies a
sequence's pages together first.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gloss_kernels.reference.attention import window_mask

_MAX_SPAN = 1.5
"""Pages between the first and the last used one, per sequence, up to which a cache is read in
place: work on idle pages is wasted, a copy of the used ones is saved. Chosen, not swept."""


class DecodePlan:
    """The private keys of one decode step.

    Args:
        block_table: [n, max_pages] int64; private pages in order. Entries past a sequence's length
            may name any page.
        private_lens: [n] int64 private keys of each sequence, the current one included.
        max_private_len: host bound on `private_lens`.
        page_size: tokens of a page.
        num_kv_heads: heads of the caches.
        prefix_len: shared keys before the private ones.
    """

    def __init__(
        self,
        block_table: Tensor,
        private_lens: Tensor,
        *,
        max_private_len: int,
        page_size: int,
        num_kv_heads: int,
        prefix_len: int,
    ) -> None:
        self.block_table, self.private_lens = block_table, private_lens
        self.max_private_len, self.page_size = max_private_len, page_size
        self.num_kv_heads, self.prefix_len = num_kv_heads, prefix_len

    def __len__(self) -> int:
        """Sequences of the step."""
        return self.block_table.shape[0]

    @cached_property
    def private_rows(self) -> PrivateRows:
        """Where the reference reads; on a CPU this reads the tables, so they must stand by now."""
        return PrivateRows(self)


class PrivateRows:
    """The private keys of a plan as rows of one batched product.

    Args:
        plan: of at least one sequence.
    """

    def __init__(self, plan: DecodePlan) -> None:
        self.num_kv_heads, self.prefix_len = plan.num_kv_heads, plan.prefix_len
        self._n, self._length = len(plan), plan.max_private_len
        self._masks: dict[int | None, tuple[Tensor, Tensor | None]] = {}
        self._place: Tensor | None = None
        table, page_size = plan.block_table, plan.page_size
        self._first, self._span = self._dense_span(table[:, 0], page_size)
        if self._span == 0:
            num_pages = -(-self._length // page_size)
            self._length = num_pages * page_size
            heads = torch.arange(self.num_kv_heads, device=table.device).view(1, -1, 1)
            pages = table[:, None, :num_pages]
            self._rows = (pages * self.num_kv_heads + heads).view(-1)
        else:
            place = table[:, 0] - self._first
            in_order = torch.arange(self._span, device=place.device)
            if not torch.equal(place, in_order):
                self._place = place
        self._lens = self.spread(plan.private_lens)

    def keys(self, cache: Tensor) -> Tensor:
        """Private rows of a cache [num_pages, num_kv_heads, page_size, head_dim].

        Returns:
            [m * num_kv_heads, length, head_dim], m being what `spread` makes of n: a view of the
            cache where it can be read in place.
        """
        if self._span:
            pages = cache[self._first : self._first + self._span, :, : self._length]
            return pages.flatten(0, 1)
        head_dim = cache.shape[3]
        gathered = cache.view(-1, cache.shape[2] * head_dim).index_select(0, self._rows)
        return gathered.view(self._n * self.num_kv_heads, self._length, head_dim)

    def spread(self, rows: Tensor) -> Tensor:
        """Rows [n, ...] in the order of `keys`, [m, ...]; 0 where no sequence stands."""
        if self._place is None:
            return rows
        return rows.new_zeros(self._span, *rows.shape[1:]).index_copy_(0, self._place, rows)

    def collect(self, rows: Tensor) -> Tensor:
        """The reverse of `spread`: [m, ...] to [n, ...]."""
        return rows if self._place is None else rows.index_select(0, self._place)

    def masks(self, window: int | None) -> tuple[Tensor, Tensor | None]:
        """Additive masks of a window.

        Returns:
            [m * num_kv_heads, 1, length] over private keys, and [m, 1, 1, prefix_len] over the
            prefix, None where all of it is seen.
        """
        if window not in self._masks:
            self._masks[window] = self._make_masks(window)
        return self._masks[window]

    def _make_masks(self, window: int | None) -> tuple[Tensor, Tensor | None]:
        lens = self._lens.view(-1, 1)
        index = torch.arange(self._length, device=lens.device)
        private = window_mask(lens - 1, index, window, index < lens)
        private = private.repeat_interleave(self.num_kv_heads, dim=0).unsqueeze(1)
        if window is None or self.prefix_len == 0:
            return private, None
        at = torch.arange(self.prefix_len, device=lens.device)
        prefix = window_mask(self.prefix_len + lens - 1, at, window, at >= 0)
        return private, prefix[:, None, None]

    def _dense_span(self, pages: Tensor, page_size: int) -> tuple[int, int]:
        """First page and number of pages to read in place; 0 of them to copy (or on a GPU)."""
        if self._length > page_size or pages.device.type != "cpu":
            return 0, 0
        first, last = (int(page) for page in torch.aminmax(pages))
        span = last - first + 1
        return (first, span) if span <= _MAX_SPAN * self._n else (0, 0)
