"""Where the private keys of a decode step stand: worked out once a step, read by every block.

A cache is read in place where every sequence has one page and these pages are dense, in page order
and with idle pages among them; else a sequence's pages are copied together first. Masks depend on
the lengths and the window alone, so they are made once a step too.
"""

from __future__ import annotations

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
        self.num_kv_heads, self.prefix_len = num_kv_heads, prefix_len
        self._n, self._length = block_table.shape[0], max_private_len
        self._masks: dict[int | None, tuple[Tensor, Tensor | None]] = {}
        self._place: Tensor | None = None
        self._first, self._span = self._dense_span(block_table[:, 0], page_size)
        if self._span == 0:
            num_pages = -(-max_private_len // page_size)
            self._length = num_pages * page_size
            heads = torch.arange(num_kv_heads, device=block_table.device).view(1, -1, 1)
            pages = block_table[:, None, :num_pages]
            self._rows = (pages * num_kv_heads + heads).view(-1)
        else:
            place = block_table[:, 0] - self._first
            in_order = torch.arange(self._span, device=place.device)
            if not torch.equal(place, in_order):
                self._place = place
        self._lens = self.spread(private_lens)

    def __len__(self) -> int:
        """Sequences of the step."""
        return self._n

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
