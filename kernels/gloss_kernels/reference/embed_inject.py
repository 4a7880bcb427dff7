"""The prefill buffer: embedding rows, with some rows replaced by scaled activations.

    out_t = embed_scale * table[ids_t]                                 for an ordinary row
    out_t = h_n * injection_scale / max(||h_n||_2, 1e-12)              for the row of activation n

`injection_scale` is the L2 norm the injected row ends up with, not a factor. The norm is taken in
float32 and the cast comes last, because scales such as Gemma's 80000 lose accuracy in 16 bits.
Reads one table row or one activation per output row; writes the output once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scale_to_norm(activations: Tensor, norm: float) -> Tensor:
    """Rescale rows to an L2 norm: h * norm / max(||h||, 1e-12), in float32.

    Args:
        activations: [n, d] floating point.
        norm: the L2 norm of every returned row.

    Returns:
        [n, d] float32.
    """
    activations = activations.float()
    lengths = torch.linalg.vector_norm(activations, dim=-1, keepdim=True)
    return activations * (norm / lengths.clamp_min(1e-12))


def embed_inject(
    embedding: Tensor,
    input_ids: Tensor,
    *,
    embed_scale: float = 1.0,
    injected_rows: Tensor | None = None,
    activations: Tensor | None = None,
    injection_scale: float = 1.0,
) -> Tensor:
    """Embed tokens and write rescaled activations over the rows that `injected_rows` names.

    Args:
        embedding: [vocab_size, d_model] table.
        input_ids: [num_tokens] int64; the id at an injected row is ignored and need not exist.
        embed_scale: factor on embedding rows, rounded to the table's dtype as the reference
            implementation of Gemma does; injected rows do not get it.
        injected_rows: [n] int64 row indices into the output, all different, or None.
        activations: [n, d_model] raw activations, any float dtype, any strides.
        injection_scale: the L2 norm of an injected row.

    Returns:
        [num_tokens, d_model] in the table's dtype.
    """
    if injected_rows is not None:
        input_ids = input_ids.index_fill(0, injected_rows, 0)
    hidden_states = torch.nn.functional.embedding(input_ids, embedding)
    if embed_scale != 1.0:
        factor = torch.tensor(embed_scale, dtype=embedding.dtype, device=embedding.device)
        hidden_states = hidden_states * factor
    if injected_rows is not None:
        assert activations is not None
        rows = scale_to_norm(activations, injection_scale).to(hidden_states.dtype)
        hidden_states.index_copy_(0, injected_rows, rows)
    return hidden_states
