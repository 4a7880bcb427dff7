"""The tensors behind the pages, and the copies that fork a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gloss_engine.models.batch import PagedCache
from gloss_engine.models.spec import ModelSpec
from gloss_engine.transfer import send


def allocate_pool(
    spec: ModelSpec, num_pages: int, page_size: int, device: torch.device, dtype: torch.dtype
) -> PagedCache:
    """A zeroed pool.

    The reference's attention masks what a sequence has not written, but 0 * NaN is NaN: pages that
    it takes must be finite (see `clear_pages`). The kernels read nothing that was not written.
    """
    shape = (spec.num_layers, num_pages, spec.num_kv_heads, page_size, spec.head_dim)
    return PagedCache(
        keys=torch.zeros(shape, device=device, dtype=dtype),
        values=torch.zeros(shape, device=device, dtype=dtype),
    )


def copy_pages(cache: PagedCache, pairs: Sequence[tuple[int, int]], num_tokens: int) -> None:
    """Copy pages over all blocks.

    Args:
        pairs: (source, destination); no page is both.
        num_tokens: tokens of each page that matter, from its beginning.
    """
    source, destination = send(list(zip(*pairs, strict=True)), cache.keys.device)
    for tensor in (cache.keys, cache.values):
        rows = tensor[:, :, :, :num_tokens]
        rows[:, destination] = rows[:, source]


def clear_pages(cache: PagedCache, pages: Sequence[int]) -> None:
    """Zero pages that change hands: a sequence that failed may have left NaN in them."""
    index = send(pages, cache.keys.device)
    for tensor in (cache.keys, cache.values):
        tensor.index_fill_(1, index, 0.0)
