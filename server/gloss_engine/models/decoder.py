"""One decoder for every architecture, driven by a `ModelSpec`.

Runs the blocks over a `ForwardBatch`. Leaves to others: what the rows are (runner), where keys and
values live (kv), reading weights from disk (checkpoint). Projections that read the same input are
packed into one product: q, k, v and gate, up.

With quantization "fp8" every projection of a block is an `Fp8Linear`, and the norm or gate before
it quantises its result in the same launch. Embedding, head, norms whose result feeds no projection,
keys and values stay in the model's type.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gloss_engine.models.batch import ForwardBatch, Injection, Prefix
from gloss_engine.models.linear import Linear
from gloss_engine.models.linear_fp8 import Fp8Linear, check_fp8
from gloss_engine.models.rope import cos_sin_table
from gloss_engine.models.spec import LayerSpec, ModelSpec
from gloss_kernels import Operations, PackedPlan
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
        return self.output(_chosen(mixed, wanted).flatten(1)), keys, values

    def mlp(self, hidden_states: Tensor | Fp8Rows) -> Tensor:
        """The gated MLP of the rows from `norm_for_linear`."""
        gate_up = self.gate_up(hidden_states)
        if self.quantized:
            return self.down(self.operations.gated_activation_fp8(gate_up, self.spec.activation))
        return self.down(self.operations.gated_activation(gate_up, self.spec.activation))


class Decoder:
    """A stack of blocks with an embedding, and a head unless it is a truncation.

    Args:
        spec: the architecture.
        num_layers: keep only the first blocks (an AR, or a target that only reads), without the
            final norm and the head; None keeps the whole model.
        max_positions: positions the rotary tables cover; the model's own limit at most.
        operations: the kernels, or the reference.
        device, dtype: where and how weights live.
        quantization: "none", or "fp8" for the blocks' projections.

    Raises:
        CheckpointError: an architecture whose widths the kernels cannot run in fp8.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        num_layers: int | None = None,
        max_positions: int,
        operations: Operations,
        device: torch.device,
        dtype: torch.dtype,
        quantization: str = "none",
    ) -> None:
        assert quantization in ("none", "fp8"), quantization
        quantized = quantization == "fp8"
        if quantized:
            check_fp8(spec, operations, device)
        self.spec, self.operations, self.device, self.dtype = spec, operations, device, dtype
        self.quantization = quantization
        self.embedding = torch.empty(spec.vocab_size, spec.d_model, device=device, dtype=dtype)
        layers = spec.layers if num_layers is None else spec.layers[:num_layers]
        self.blocks = [Block(spec, layer, operations, device, dtype, quantized) for layer in layers]
        self.final_norm: Tensor | None = None
        self.head: Linear | None = None
        if num_layers is None:
            self.final_norm = torch.empty(spec.d_model, device=device, dtype=dtype)
            tied = self.embedding if spec.tie_word_embeddings else None
            self.head = Linear(
                spec.d_model, spec.vocab_size, bias=False, device=device, dtype=dtype, weight=tied
            )
        num_positions = min(max_positions, spec.max_positions)
        self.rope_tables = [cos_sin_table(rope, num_positions, device) for rope in spec.ropes]

    def targets(self) -> dict[str, Tensor | Fp8Rows]:
        """Hugging Face parameter names and what a loader fills (`fill`), mostly views."""
        named: dict[str, Tensor | Fp8Rows] = {"model.embed_tokens.weight": self.embedding}
        for index, block in enumerate(self.blocks):
            for name, target in block.targets().items():
                named[f"model.layers.{index}.{name}"] = target
        if self.final_norm is not None and self.head is not None:
            named["model.norm.weight"] = self.final_norm
            if not self.spec.tie_word_embeddings:
                named["lm_head.weight"] = self.head.weight
        return named

    def pack(self) -> None:
        """Lay the loaded weights out for the device; call once, after loading."""
        for block in self.blocks:
            for linear in block.linears:
                linear.pack()
        if self.head is not None:
            self.head.pack(keep_weight=self.spec.tie_word_embeddings)

    def embed(
        self,
        input_ids: Tensor,
        injected_rows: Tensor | None = None,
        activations: Tensor | None = None,
        injection_scale: float = 1.0,
    ) -> Tensor:
        """Embedding rows with activations injected: see `gloss_kernels.reference.embed_inject`."""
        return self.operations.embed_inject(
            self.embedding,
            input_ids,
            embed_scale=self.spec.embed_scale,
            injected_rows=injected_rows,
            activations=activations,
            injection_scale=injection_scale,
        )

    def forward(
        self,
        hidden_states: Tensor,
        batch: ForwardBatch,
        collect: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Run all blocks.

        Args:
            hidden_states: [num_tokens, d_model] embedded rows; overwritten.
            batch: what the rows are.
            collect: receives every block's keys and values, [num_tokens, num_kv_heads, head_dim].

        Returns:
            [num_tokens, d_model] the residual stream after the last block, not normed; of the
            wanted rows, in their order, where the batch names some.
        """
        residual, pending = hidden_states, None
        wanted = batch.wanted
        injected = None if batch.injection is None else batch.injection.layer_index
        rotations = [table.index_select(0, batch.positions) for table in self.rope_tables]
        for index, block in enumerate(self.blocks):
            cos_sin = rotations[block.layer.rope_index]
            if pending is None:
                normed = block.norm_for_linear(residual, block.input_norm, None)
            else:
                normed = block.norm_for_linear(pending, block.input_norm, residual)
            is_last = index == len(self.blocks) - 1 and injected != index
            now = wanted if is_last else None
            attended, keys, values = block.attention(normed, batch, index, cos_sin, now)
            if is_last:
                residual, wanted = _chosen(residual, wanted), None
            if collect is not None:
                collect.append((keys, values))
            if block.post_attention_norm is not None:
                attended = block.norm(attended, block.post_attention_norm, None)
            pending = block.mlp(block.norm_for_linear(attended, block.mlp_norm, residual))
            if block.post_mlp_norm is not None:
                pending = block.norm(pending, block.post_mlp_norm, None)
            if batch.injection is not None and injected == index:
                residual, pending = _inject(residual.add_(pending), batch.injection), None
        return _chosen(residual if pending is None else residual.add_(pending), wanted)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Final norm and head: [n, d_model] residual rows to [n, vocab_size], the model's type.

        Casting them here would move three times their bytes before the sampler reads them.
        """
        assert self.final_norm is not None and self.head is not None
        normed = self.operations.rms_norm(
            hidden_states,
            self.final_norm,
            self.spec.rms_norm_eps,
            offset=self.spec.norm_offset,
        )
        return self.head(normed)

    def compute_prefix(self, input_ids: Tensor) -> Prefix:
        """Keys and values of a token sequence, for others to stand behind.

        Args:
            input_ids: [prefix_len] int64, at least one.
        """
        length = input_ids.shape[0]
        batch = ForwardBatch(
            positions=torch.arange(length, device=self.device),
            packed=PackedPlan(
                torch.tensor([0, length], device=self.device), num_tokens=length, max_seqlen=length
            ),
        )
        collected: list[tuple[Tensor, Tensor]] = []
        self.forward(self.embed(input_ids), batch, collected)
        keys = torch.stack([pair[0].transpose(0, 1) for pair in collected])
        values = torch.stack([pair[1].transpose(0, 1) for pair in collected])
        return Prefix(keys=keys.contiguous(), values=values.contiguous())


def _chosen(rows: Tensor, wanted: slice | Tensor | None) -> Tensor:
    """The wanted ones of some rows."""
    if wanted is None:
        return rows
    return rows[wanted] if isinstance(wanted, slice) else rows.index_select(0, wanted)


def _inject(residual: Tensor, injection: Injection) -> Tensor:
    """Add each direction, scaled to its row's own norm, to the residual stream in place."""
    rows = residual.index_select(0, injection.rows).float()
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    rows += norms * injection.directions
    return residual.index_copy_(0, injection.rows, rows.to(residual.dtype))
