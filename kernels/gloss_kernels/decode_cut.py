"""How decode attention is cut up into programs and launches: by shape alone, on the host.

The numbers here are arithmetic on an H200's data sheet, not sweeps: no GPU was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from gloss_kernels.reference.decode_plan import DecodePlan

_SHARED_BYTES = 24 << 20
"""Prefix bytes, read once a sequence, from which a launch of their own is cheaper: about 5 us of
traffic from the L2 cache, partly hidden behind the private keys, against a launch and its wait."""
_LEAST_SPLIT_KEYS = 256
"""Keys of a split: what fewer save is less than the launch that merges them."""
_MAX_SPLITS = 32
"""Splits that a merging program holds in registers at once."""
_BLOCK_BYTES, _LONE_BLOCK_BYTES = 8 << 10, 16 << 10
"""Keys of one block. The smaller leaves room for several programs on a multiprocessor, whose loads
are in flight together; the larger is for programs that have one to themselves."""
_STAGES, _LONE_STAGES = 5, 7
"""Triton spends one or two on the table's entries: keys and values have two or three buffers."""
_LEAST_BLOCK, _MOST_BLOCK = 32, 128


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One way to cut up the work; the result differs by rounding only.

    Attributes:
        shares_prefix: whether a launch of its own reads the prefix, once for many sequences; else
            each sequence's program reads it.
        splits: programs that share one sequence's keys.
        block: keys that such a program takes at once; a power of two, 16 or more.
        stages: iterations of its loop that are in flight; no matter of rounding.
        prefix_block: the keys that a prefix program takes at once.
    """

    shares_prefix: bool
    splits: int
    block: int
    stages: int
    prefix_block: int


def choose_cut(
    plan: DecodePlan, *, row_bytes: int, prefix_len: int, window: int | None, multiprocessors: int
) -> Cut:
    """The cut for a step of at least one sequence.

    Args:
        plan: only its sizes and host bounds are read.
        row_bytes: one key of one head, padded to a power of two.
        prefix_len: shared keys, 0 without a prefix.
        window: sliding window in tokens, or None.
        multiprocessors: of the device.
    """
    programs = len(plan) * plan.num_kv_heads
    reread = 2 * programs * prefix_len * row_bytes
    shares_prefix = programs >= multiprocessors and reread >= _SHARED_BYTES
    keys = plan.max_private_len + (0 if shares_prefix else prefix_len)
    keys = keys if window is None else min(keys, window)
    wanted = -(-2 * multiprocessors // programs)
    splits = max(1, min(wanted, keys // _LEAST_SPLIT_KEYS, _MAX_SPLITS))
    # A power of two: a kernel is compiled for each number, and lengths grow while requests run.
    splits = 1 << (splits.bit_length() - 1)
    alone = programs * splits <= multiprocessors
    return Cut(
        shares_prefix=shares_prefix,
        splits=splits,
        block=_block(_LONE_BLOCK_BYTES if alone else _BLOCK_BYTES, row_bytes),
        stages=_LONE_STAGES if alone else _STAGES,
        prefix_block=_block(_LONE_BLOCK_BYTES, row_bytes),
    )


def _block(num_bytes: int, row_bytes: int) -> int:
    return min(max(num_bytes // row_bytes, _LEAST_BLOCK), _MOST_BLOCK)
