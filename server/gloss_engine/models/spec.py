"""What distinguishes one decoder architecture from another, as data.

`decoder.py` is driven by a `ModelSpec` alone; `registry.py` makes one from a Hugging Face config.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """One rotary embedding: angle(position, i) = position * inv_freq[i].

    Attributes:
        inv_freq: head_dim / 2 inverse frequencies, radians per position, scaling included.
    """

    inv_freq: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """What may differ between the blocks of one model.

    Attributes:
        rope_index: which of `ModelSpec.ropes` rotates this block's queries and keys.
        window: a query at position q sees keys at kv > q - window; None sees all.
    """

    rope_index: int = 0
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder and the switches its architecture needs.

    Attributes:
        architecture: Hugging Face model_type, for messages only.
        d_model: width of the residual stream.
        layers: one entry per block, block 0 first.
        num_heads, num_kv_heads, head_dim: attention geometry; num_heads % num_kv_heads == 0.
        intermediate_size: width of the gated MLP.
        vocab_size: rows of the embedding table.
        rms_norm_eps: epsilon inside every RMS norm.
        norm_offset: norms multiply by (norm_offset + weight): 1 for Gemma, else 0.
        qkv_bias, o_bias, mlp_bias: which projections carry a bias.
        qk_norm: RMS norm over head_dim of queries and keys before the rotary embedding.
        post_norms: Gemma's extra norms after attention and after the MLP.
        attention_scale: factor on q.k; Gemma takes it from query_pre_attn_scalar.
        ropes: the rotary embeddings that `LayerSpec.rope_index` points into.
        embed_scale: factor on embedding rows, rounded as the reference rounds it (see decoder).
        activation: "silu" or "gelu_tanh".
        tie_word_embeddings: the head reads the embedding table.
        max_positions: positions the model was made for.
    """

    architecture: str
    d_model: int
    layers: tuple[LayerSpec, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    attention_scale: float
    ropes: tuple[RopeSpec, ...]
    max_positions: int
    norm_offset: float = 0.0
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    embed_scale: float = 1.0
    activation: str = "silu"
    tie_word_embeddings: bool = False

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.layers)
