"""One query per sequence against the shared prefix and the sequence's own pages.

    out_b = softmax(q_b [K_prefix ; K_b]^T * scale) [V_prefix ; V_b]

A query at position p sees keys at positions kv > p - window, inside the prefix too. Unique bytes
read: the prefix once, the private keys and values of every sequence once, the queries once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_kernels.reference.attention import two_part_attention, window_mask

_MAX_SPAN = 1.5
"""Pages between the first and the last used one, per sequence, up to which the cache is read in
place. Copying a key costs about what multiplying it does, so half as many idle pages still pay."""


def paged_decode_attention(
    queries: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    private_lens: Tensor,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    max_private_len: int,
) -> Tensor:
    """Attend for one decode step.

    Args:
        queries: [n, num_heads, head_dim].
        key_cache, value_cache: [num_pages, num_kv_heads, page_size, head_dim]; the current
            token's key and value are already stored.
        block_table: [n, max_pages] int64; private pages in order. Entries past a sequence's length
            may be anything valid.
        private_lens: [n] int64 private keys of each sequence, the current one included.
        prefix: shared keys and values, each [num_kv_heads, prefix_len, head_dim], or None.
        scale: factor on the scores.
        window: sliding window in tokens, or None.
        max_private_len: host bound on `private_lens`.

    Returns:
        [n, num_heads, head_dim] in the dtype of `queries`.
    """
    n, num_heads, head_dim = queries.shape
    _, num_kv_heads, page_size, _ = key_cache.shape
    grouped = queries.view(n, num_kv_heads, -1, head_dim)
    attend = _InPlace.of(block_table, max_private_len, page_size)
    if attend is None:
        num_pages = -(-max_private_len // page_size)
        rows = _page_rows(block_table[:, :num_pages], num_kv_heads)
        keys, values = _gather(key_cache, rows, n), _gather(value_cache, rows, n)
    else:
        keys, values = attend.view(key_cache), attend.view(value_cache)
        grouped, private_lens = attend.spread(grouped), attend.spread(private_lens)
    lens = private_lens.view(-1, 1, 1, 1)
    index = torch.arange(keys.shape[1], device=queries.device)
    mask = window_mask(lens - 1, index, window, index < lens)
    prefix_mask = None
    if prefix is not None and window is not None:
        prefix_len = prefix[0].shape[1]
        at = torch.arange(prefix_len, device=queries.device)
        prefix_mask = window_mask(prefix_len + lens - 1, at, window, at >= 0)
    out = two_part_attention(grouped, keys, values, mask, prefix, prefix_mask, scale)
    if attend is not None:
        out = out.index_select(0, attend.place)
    return out.reshape(n, num_heads, head_dim).to(queries.dtype)


def _page_rows(pages: Tensor, num_kv_heads: int) -> Tensor:
    """Rows of a cache seen as [num_pages * num_kv_heads, ...], [n * num_kv_heads * pages]."""
    heads = torch.arange(num_kv_heads, device=pages.device).view(1, -1, 1)
    return (pages.unsqueeze(1) * num_kv_heads + heads).view(-1)


def _gather(cache: Tensor, rows: Tensor, n: int) -> Tensor:
    """Copy of the private rows, [n * num_kv_heads, pages * page_size, head_dim]."""
    _, num_kv_heads, page_size, head_dim = cache.shape
    gathered = cache.view(-1, page_size * head_dim).index_select(0, rows)
    return gathered.view(n * num_kv_heads, -1, head_dim)


@dataclass(frozen=True, kw_only=True)
class _InPlace:
    """Attention in page order, without a copy: where a sequence has one page, and pages are dense.

    Attributes:
        first, span: the pages that are read, used or not.
        length: keys of each page that are read.
        place: [n] int64, where each sequence's page stands among them.
    """

    first: int
    span: int
    length: int
    place: Tensor

    @classmethod
    def of(cls, block_table: Tensor, max_private_len: int, page_size: int) -> _InPlace | None:
        """The dense span of the sequences' single pages; None if there is none (or on a GPU)."""
        pages = block_table[:, 0]
        if max_private_len > page_size or pages.device.type != "cpu":
            return None
        first, last = (int(page) for page in torch.aminmax(pages))
        span = last - first + 1
        if span > _MAX_SPAN * pages.shape[0]:
            return None
        return cls(first=first, span=span, length=max_private_len, place=pages - first)

    def view(self, cache: Tensor) -> Tensor:
        """The pages' first keys, [span * num_kv_heads, length, head_dim]."""
        return cache[self.first : self.first + self.span, :, : self.length].flatten(0, 1)

    def spread(self, rows: Tensor) -> Tensor:
        """Rows [n, ...] moved to their pages' places, [span, ...]; what no sequence owns is 0."""
        return rows.new_zeros(self.span, *rows.shape[1:]).index_copy_(0, self.place, rows)
