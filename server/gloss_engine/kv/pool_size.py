"""How many private pages an engine gets: enough for every slot, or what a GPU's memory holds.

Weights, prefixes and state are in place by then, so what counts is the memory that is free, less a
step's workspace, less the share of the device that is to stay free (for captured graphs, library
workspaces and fragments).
"""

from __future__ import annotations

import torch

from gloss_engine import memory_sizes as sizes
from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.models.decoder import Decoder

_GIB = 2**30


def num_pages(decoder: Decoder, config: EngineConfig, suffix_len: int) -> int:
    """Pages of the pool, page 0 included.

    Raises:
        ConfigError: no room for one sequence at its longest.
    """
    page_size = config.resolve_page_size(suffix_len)
    wanted = config.num_pages or sizes.pool_pages(
        config.num_slots,
        suffix_len=suffix_len,
        max_new_tokens=config.max_new_tokens,
        page_size=page_size,
    )
    if decoder.device.type != "cuda":
        return wanted
    # What loading freed is the allocator's, not the device's, until it is given back.
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(decoder.device)
    fitting = pages_in(free, total, decoder, config, suffix_len)
    least = 1 + sizes.sequence_pages(suffix_len, config.max_new_tokens, page_size)
    if fitting >= wanted or (config.num_pages is None and fitting >= least):
        return min(wanted, fitting)
    page_bytes = page_size * sizes.token_bytes(decoder.spec, decoder.dtype.itemsize)
    needed = wanted if config.num_pages else least
    raise ConfigError(
        f"memory_fraction: got {config.memory_fraction}, which leaves room for {fitting} pages of "
        f"{page_size} tokens ({fitting * page_bytes / _GIB:.1f} GiB; {free / _GIB:.1f} of "
        f"{total / _GIB:.1f} GiB are free); expected {needed} pages or more. "
        "See gloss plan; take fewer slots, fp8, or a larger fraction or device."
    )


def pages_in(free: int, total: int, decoder: Decoder, config: EngineConfig, suffix_len: int) -> int:
    """Pages that `free` bytes of a device of `total` bytes have room for."""
    spec, size = decoder.spec, decoder.dtype.itemsize
    # An AR is as wide as its AV; its largest batch runs from idle, when nothing decodes.
    # A target is as wide as well, and reads no more at once than a step prefills by default.
    rows = max(
        config.num_slots + config.max_prefill_tokens,
        config.max_score_tokens,
        config.max_read_tokens,
    )
    workspace = sizes.activation_bytes(spec, rows, size)
    workspace += sizes.logits_bytes(spec, config.num_slots, size)
    usable = free - workspace - round((1 - config.memory_fraction) * total)
    page_bytes = config.resolve_page_size(suffix_len) * sizes.token_bytes(spec, size)
    return sizes.pages_that_fit(usable, page_bytes)
