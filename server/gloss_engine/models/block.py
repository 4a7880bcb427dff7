"""One block of the decoder: attention and gated MLP, each behind an RMS norm.

Projections that read the same input are packed into one product: q, k, v and gate, up. With
quantization "fp8" every projection is an `Fp8Linear`, and the norm or gate before it quantises its
result in the same launch. Embedding, head, norms whose result feeds no projection, keys and values
stay in the model's type.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gloss_engine.models.batch import ForwardBatch, chosen_rows
from gloss_engine.models.linear import Linear
from gloss_engine.models.linear_fp8 import Fp8Linear
from gloss_engine.models.spec import LayerSpec, ModelSpec
from gloss_kernels import Operations
from gloss_kernels.fp8 import Fp8Rows


class Block:
    """One decoder block: attention and gated MLP, each behind an RMS norm."""

    def __init__(
        self,
        spec: ModelSpec,
        layer: LayerSpec,
        operations: Operations,
        device: torch.device,
        dtype: torch.dtype,
        quantized: bool,
    ) -> None:
        self.spec, self.layer, self.operations = spec, layer, operations
        self.quantized = quantized
        q_size = spec.num_heads * spec.head_dim
        qkv_size = q_size + 2 * spec.num_kv_heads * spec.head_dim

        def linear(n_in: int, n_out: int, bias: bool) -> Linear | Fp8Linear:
            if quantized:
                return Fp8Linear(
                    n_in, n_out, bias=bias, device=device, dtype=dtype, operations=operations
                )
            return Linear(n_in, n_out, bias=bias, device=device, dtype=dtype)

        def norm(size: int) -> Tensor:
            return torch.empty(size, device=device, dtype=dtype)

        # The bias of q, k and v is added in float32 by what rotates them: see `qkv_rope_store`.
        self.qkv = linear(spec.d_model, qkv_size, False)
        self.qkv_bias = torch.empty(qkv_size, device=device, dtype=dtype) if spec.qkv_bias else None
        self.output = linear(q_size, spec.d_model, spec.o_bias)
        self.gate_up = linear(spec.d_model, 2 * spec.intermediate_size, spec.mlp_bias)
        self.down = linear(spec.intermediate_size, spec.d_model, spec.mlp_bias)
        self.input_norm, self.mlp_norm = norm(spec.d_model), norm(spec.d_model)
        self.q_norm = norm(spec.head_dim) if spec.qk_norm else None
        self.k_norm = norm(spec.head_dim) if spec.qk_norm else None
        self.post_attention_norm = norm(spec.d_model) if spec.post_norms else None
        self.post_mlp_norm = norm(spec.d_model) if spec.post_norms else None

    @property
    def linears(self) -> tuple[Linear | Fp8Linear, ...]:
        """Every projection of the block."""
        return self.qkv, self.output, self.gate_up, self.down

    def targets(self) -> dict[str, Tensor | Fp8Rows]:
        """Hugging Face parameter names, relative to the block, and what to fill."""
        spec = self.spec
        q_size, kv_size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        ff = spec.intermediate_size
        named: dict[str, Tensor | Fp8Rows] = {"input_layernorm.weight": self.input_norm}
        packed = (
            (self.qkv, self.qkv_bias, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
             (q_size, kv_size, kv_size)),
            (self.output, self.output.bias, ("self_attn.o_proj",), (spec.d_model,)),
            (self.gate_up, self.gate_up.bias, ("mlp.gate_proj", "mlp.up_proj"), (ff, ff)),
            (self.down, self.down.bias, ("mlp.down_proj",), (spec.d_model,)),
        )  # fmt: skip
        for layer, bias, names, sizes in packed:
            parts: Sequence[Tensor | Fp8Rows] = layer.parts(sizes)
            for name, part in zip(names, parts, strict=True):
                named[f"{name}.weight"] = part
            if bias is not None:
                for name, bias_part in zip(names, bias.split(sizes), strict=True):
                    named[f"{name}.bias"] = bias_part
        if self.q_norm is not None and self.k_norm is not None:
            named["self_attn.q_norm.weight"] = self.q_norm
            named["self_attn.k_norm.weight"] = self.k_norm
        if self.post_attention_norm is not None and self.post_mlp_norm is not None:
            named["post_attention_layernorm.weight"] = self.post_attention_norm
            named["pre_feedforward_layernorm.weight"] = self.mlp_norm
            named["post_feedforward_layernorm.weight"] = self.post_mlp_norm
        else:
            named["post_attention_layernorm.weight"] = self.mlp_norm
        return named

    def norm(self, hidden_states: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        """RMS norm with the architecture's epsilon and offset."""
        return self.operations.rms_norm(
            hidden_states,
            weight,
            self.spec.rms_norm_eps,
            offset=self.spec.norm_offset,
            residual=residual,
        )

    def norm_for_linear(
        self, hidden_states: Tensor, weight: Tensor, residual: Tensor | None
    ) -> Tensor | Fp8Rows:
        """`norm` as the block's projections read it: quantised where they are."""
        if not self.quantized:
            return self.norm(hidden_states, weight, residual)
        return self.operations.rms_norm_fp8(
            hidden_states,
            weight,
            self.spec.rms_norm_eps,
            offset=self.spec.norm_offset,
            residual=residual,
        )

    def attention(
        self,
        hidden_states: Tensor | Fp8Rows,
        batch: ForwardBatch,
        index: int,
        cos_sin: Tensor,
        wanted: slice | Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of the normed rows, as far as wanted; also the keys and values of all.

        Args:
            hidden_states: [num_tokens, d_model] from `norm_for_linear`.
            index: the block's index, which selects its cache and prefix.
            cos_sin: [num_tokens, 2, head_dim] rows of the block's rotary table.
            wanted: rows to project, None for all.
        """
        spec, cache = self.spec, batch.cache
        queries, keys, values = self.operations.qkv_rope_store(
            self.qkv(hidden_states),
            cos_sin,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            bias=self.qkv_bias,
            q_norm_weight=self.q_norm,
            k_norm_weight=self.k_norm,
            norm_eps=spec.rms_norm_eps,
            norm_offset=spec.norm_offset,
            key_cache=None if cache is None else cache.keys[index],
            value_cache=None if cache is None else cache.values[index],
            slot_mapping=batch.slot_mapping,
        )
        prefix = None if batch.prefix is None else batch.prefix.layer(index)
        num_decode = 0 if batch.decode is None else len(batch.decode)
        has_both = batch.decode is not None and batch.packed is not None
        mixed = torch.empty_like(queries) if has_both else None
        if batch.decode is not None:
            assert cache is not None
            attended = self.operations.paged_decode_attention(
                queries[:num_decode],
                cache.keys[index],
                cache.values[index],
                batch.decode,
                prefix=prefix,
                scale=spec.attention_scale,
                window=self.layer.window,
                out=None if mixed is None else mixed[:num_decode],
            )
        if batch.packed is not None:
            attended = self.operations.packed_attention(
                queries[num_decode:],
                keys[num_decode:],
                values[num_decode:],
                batch.packed,
                prefix=prefix,
                scale=spec.attention_scale,
                window=self.layer.window,
                out=None if mixed is None else mixed[num_decode:],
            )
        mixed = attended if mixed is None else mixed
        return self.output(chosen_rows(mixed, wanted).flatten(1)), keys, values

    def mlp(self, hidden_states: Tensor | Fp8Rows) -> Tensor:
        """The gated MLP of the rows from `norm_for_linear`."""
        gate_up = self.gate_up(hidden_states)
        if self.quantized:
            return self.down(self.operations.gated_activation_fp8(gate_up, self.spec.activation))
        return self.down(self.operations.gated_activation(gate_up, self.spec.activation))
