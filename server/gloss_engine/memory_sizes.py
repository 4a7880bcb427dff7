"""What the tensors of an engine take, in bytes, from a `ModelSpec` and a few lengths.

Plain arithmetic over the shapes that `models/decoder.py`, `kv/pool.py` and `slots.py` allocate; the
tests hold it to tensors really made. What fits into a device is for `memory_plan.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gloss_engine.floor import linear_shapes, weights_of
from gloss_engine.models.spec import ModelSpec

_FLOAT32, _INT64 = 4, 8
_TAG_STATES = len("</explanation>") + 1


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How weights are held.

    Attributes:
        dtype_bytes: bytes of an element of the model's type: 2, or 4 for float32.
        quantization: "fp8": a byte a weight of the blocks' projections and a float32 scale an
            output row, everything else in the model's type; or "none".
    """

    dtype_bytes: int = 2
    quantization: str = "none"


def decoder_bytes(spec: ModelSpec, precision: Precision, *, with_head: bool) -> int:
    """Weights of a `Decoder`, rotary tables apart.

    Args:
        spec: the blocks that are kept.
        precision: how they are held.
        with_head: final norm and head too; a tied head is the embedding and costs nothing.
    """
    size = precision.dtype_bytes
    table = spec.vocab_size * spec.d_model * size
    total = table + spec.num_layers * block_bytes(spec, precision)
    if with_head:
        total += spec.d_model * size + (0 if spec.tie_word_embeddings else table)
    return total


def block_bytes(spec: ModelSpec, precision: Precision) -> int:
    """Weights of one block: projections, biases, norms."""
    shapes, size = linear_shapes(spec), precision.dtype_bytes
    qkv_size, gate_up_size = shapes[0][1], shapes[2][1]
    if precision.quantization == "fp8":
        projections = weights_of(shapes) + _FLOAT32 * sum(n_out for _, n_out in shapes)
    else:
        projections = weights_of(shapes) * size
    biases = qkv_size * spec.qkv_bias + spec.d_model * spec.o_bias
    biases += (gate_up_size + spec.d_model) * spec.mlp_bias
    norms = (4 if spec.post_norms else 2) * spec.d_model + 2 * spec.head_dim * spec.qk_norm
    return projections + (biases + norms) * size


def rope_bytes(spec: ModelSpec, num_positions: int) -> int:
    """Rotary tables of `num_positions` positions, or of the model's own limit if that is less."""
    positions = min(num_positions, spec.max_positions)
    return len(spec.ropes) * positions * 2 * spec.head_dim * _FLOAT32


def value_head_bytes(d_model: int) -> int:
    """An AR's [d_model, d_model] head in float32; the bias that some have is left out."""
    return d_model * d_model * _FLOAT32


def token_bytes(spec: ModelSpec, dtype_bytes: int) -> int:
    """Keys and values of one token in all blocks."""
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype_bytes


def sequence_pages(suffix_len: int, max_new_tokens: int, page_size: int) -> int:
    """Pages reserved for a sequence's whole limit: the last token drawn is never stored."""
    return -(-(suffix_len + max_new_tokens - 1) // page_size)


def pool_pages(num_sequences: int, *, suffix_len: int, max_new_tokens: int, page_size: int) -> int:
    """Pages for `num_sequences` at their longest, one prefilled suffix beside them, and page 0."""
    whole = sequence_pages(suffix_len, max_new_tokens, page_size)
    return num_sequences * whole + -(-suffix_len // page_size) + 1


def pages_that_fit(free_bytes: int, page_bytes: int) -> int:
    """Pages that `free_bytes` hold, page 0 among them; 0 when there is no room.

    Args:
        free_bytes: what is left when everything else has its place; may be negative.
        page_bytes: `page_size * token_bytes(spec, dtype_bytes)`.
    """
    return max(0, free_bytes // page_bytes)


def state_bytes(spec: ModelSpec, num_slots: int, max_new_tokens: int, max_pages: int) -> int:
    """The state of `num_slots` sequences (`Slots`, with the penalty's presence map), and the AV's
    stop table and end-of-sequence map."""
    counters = 7 * _INT64 + 4 * _FLOAT32 + max_pages * _INT64
    draws, report = (max_new_tokens + 1) * _FLOAT32, 3 * _FLOAT32
    presence = -(-spec.vocab_size // 32) * 4
    return num_slots * (counters + draws + report + presence) + stop_bytes(spec)


def stop_bytes(spec: ModelSpec) -> int:
    """The closing tag's automaton and the map of what ends a sequence, a byte each."""
    return (_TAG_STATES + 1) * spec.vocab_size


def activation_bytes(spec: ModelSpec, num_rows: int, dtype_bytes: int) -> int:
    """What a forward pass holds of `num_rows` rows where it is widest.

    In the MLP that is the residual stream, the normed rows, gate and up, and their product; in
    attention the residual stream, the normed rows, q, k and v before and after the rotation, and
    the result.
    """
    q_size = spec.num_heads * spec.head_dim
    qkv_size = q_size + 2 * spec.num_kv_heads * spec.head_dim
    widest = max(3 * spec.intermediate_size, 2 * qkv_size + q_size)
    return num_rows * (2 * spec.d_model + widest) * dtype_bytes


def logits_bytes(spec: ModelSpec, num_rows: int, dtype_bytes: int) -> int:
    """Logits of a step, in the model's type."""
    return num_rows * spec.vocab_size * dtype_bytes
