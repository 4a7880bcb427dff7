"""What one forward pass runs over, apart from the hidden states: an argument, never a global.

Rows come in two runs: `num_decode` rows of one token each, which read their keys from pages, then
the packed rows of whole sequences, which attend to themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gloss_kernels import DecodePlan, PackedPlan


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Keys and values of the tokens that every sequence of a batch begins with.

    Attributes:
        keys, values: [num_layers, num_kv_heads, prefix_len, head_dim].
    """

    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return self.keys.shape[2]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one block, each [num_kv_heads, prefix_len, head_dim]."""
        return self.keys[index], self.values[index]


@dataclass(frozen=True, kw_only=True)
class PagedCache:
    """The private pages of all sequences; page 0 belongs to nobody and absorbs padding.

    Attributes:
        keys, values: [num_layers, num_pages, num_kv_heads, page_size, head_dim].
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, kw_only=True)
class Injection:
    """Vectors added to the residual stream after a block: the second injection dialect.

    Attributes:
        layer_index: the block after whose output they are added.
        rows: [n] int64 rows of the batch.
        directions: [n, d_model] float32 unit vectors; each is scaled by its row's own norm.
    """

    layer_index: int
    rows: Tensor
    directions: Tensor


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Rows of the residual stream to copy out after a block: see `hook_gather`.

    Attributes:
        layer_index: the block whose output they are.
        rows: [n] int64 rows of the batch.
        raw, norms: [n, d_model] and [n] float32, written.
        buffer: [m, d_model] prefill buffer of an AV, written too, or None.
        buffer_rows: [n] int64 rows of it.
        injection_scale: L2 norm of what is written there.
    """

    layer_index: int
    rows: Tensor
    raw: Tensor
    norms: Tensor
    buffer: Tensor | None = None
    buffer_rows: Tensor | None = None
    injection_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ForwardBatch:
    """One forward pass.

    Attributes:
        positions: [num_tokens] int64 absolute positions.
        decode: the first rows, or None.
        packed: the remaining rows, or None.
        prefix: what stands before every sequence, or None.
        cache: where keys and values are stored, or None to store none.
        slot_mapping: [2, num_tokens] int64 page and offset; needed with a cache.
        injection: vectors to add on the way, or None.
        wanted: rows whose result is asked for, as a slice or [m] int64; None: all. Others end
            with the last block's keys and values.
        num_blocks: run the first blocks only; None: all.
        capture: rows to copy out on the way, or None.
    """

    positions: Tensor
    decode: DecodePlan | None = None
    packed: PackedPlan | None = None
    prefix: Prefix | None = None
    cache: PagedCache | None = None
    slot_mapping: Tensor | None = None
    injection: Injection | None = None
    wanted: slice | Tensor | None = None
    num_blocks: int | None = None
    capture: Capture | None = None


def chosen_rows(rows: Tensor, wanted: slice | Tensor | None) -> Tensor:
    """The wanted ones of some rows."""
    if wanted is None:
        return rows
    return rows[wanted] if isinstance(wanted, slice) else rows.index_select(0, wanted)
