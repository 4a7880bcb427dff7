"""The rows a forward pass starts from: embedding rows, and prefill buffer rows over some of them.

    out_t = embed_scale * table[ids_t]           for an ordinary row
    out_t = buffer[buffer_rows_i]                where t = injected_rows_i, an exact copy

The buffer's rows are at their injection norm already (`hook_gather`). Reads one row of the table or
of the buffer per output row; writes the output once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def embed_inject(
    embedding: Tensor,
    input_ids: Tensor,
    *,
    embed_scale: float = 1.0,
    injected_rows: Tensor | None = None,
    buffer: Tensor | None = None,
    buffer_rows: Tensor | None = None,
) -> Tensor:
    """Embed tokens and copy rows of a buffer over the rows that `injected_rows` names.

    Args:
        embedding: [vocab_size, d_model] table.
        input_ids: [num_tokens] int64; the id at an injected row is ignored and need not exist.
        embed_scale: factor on embedding rows, rounded to the table's dtype as the reference
            implementation of Gemma does; injected rows do not get it.
        injected_rows: [n] int64 row indices into the output, all different, or None.
        buffer: [m, d_model] in the table's dtype, rows contiguous; needed with injected rows.
        buffer_rows: [n] int64 indices into `buffer`, with repetitions if wanted.

    Returns:
        [num_tokens, d_model] in the table's dtype.
    """
    if injected_rows is not None:
        input_ids = input_ids.index_fill(0, injected_rows, 0)
    hidden_states = torch.nn.functional.embedding(input_ids, embedding)
    if embed_scale != 1.0:
        # Filled on the device: a number copied there could not be captured into a graph.
        hidden_states = hidden_states * hidden_states.new_full((), embed_scale)
    if injected_rows is not None:
        assert buffer is not None and buffer_rows is not None
        hidden_states.index_copy_(0, injected_rows, buffer.index_select(0, buffer_rows))
    return hidden_states
