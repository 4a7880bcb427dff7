"""The tensors behind the pages, and the copies that fork a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_engine.models.batch import PagedCache
from gloss_engine.models.spec import ModelSpec


def allocate_pool(
    spec: ModelSpec, num_pages: int, page_size: int, device: torch.device, dtype: torch.dtype
) -> PagedCache:
    """A zeroed pool.

    Attention masks what a sequence has not written, but 0 * NaN is NaN: pages that nobody holds
    must be finite (see `clear_pages`).
    """
    shape = (spec.num_layers, num_pages, spec.num_kv_heads, page_size, spec.head_dim)
    return PagedCache(
        keys=torch.zeros(shape, device=device, dtype=dtype),
        values=torch.zeros(shape, device=device, dtype=dtype),
    )


def copy_pages(
    cache: PagedCache, sources: list[int], destinations: list[int], num_tokens: int
) -> None:
    """Copy pages over all blocks, sources[i] to destinations[i].

    Args:
        num_tokens: tokens of each page that matter, from its beginning.
    """
    if not sources:
        return
    source = torch.tensor(sources, device=cache.keys.device)
    destination = torch.tensor(destinations, device=cache.keys.device)
    for tensor in (cache.keys, cache.values):
        rows = tensor[:, :, :, :num_tokens]
        rows[:, destination] = rows[:, source]


def clear_pages(cache: PagedCache, pages: Tensor) -> None:
    """Zero the pages of a sequence that failed, before others get them.

    Args:
        pages: [n] int64; page 0 may be among them.
    """
    for tensor in (cache.keys, cache.values):
        tensor.index_fill_(1, pages.to(tensor.device), 0.0)
