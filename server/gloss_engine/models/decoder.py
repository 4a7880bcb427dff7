"""One decoder for every architecture, driven by a `ModelSpec`.

Runs the blocks (`block.py`) over a `ForwardBatch`. Leaves to others: what the rows are (step),
where keys and values live (kv), reading weights from disk (checkpoint).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_engine.models.batch import Capture, ForwardBatch, Injection, Prefix, chosen_rows
from gloss_engine.models.block import Block
from gloss_engine.models.linear import Linear
from gloss_engine.models.linear_fp8 import check_fp8
from gloss_engine.models.rope import cos_sin_table
from gloss_engine.models.spec import ModelSpec
from gloss_kernels import Operations, PackedPlan
from gloss_kernels.fp8 import Fp8Rows

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Donor:
    """A loaded decoder whose weights another one takes where both are the same.

    Attributes:
        decoder: on the same device, of the same type, its blocks of the same shape.
        holds: whether all tensors of a canonical name, or below it, are the same.
    """

    decoder: Decoder
    holds: Callable[[str], bool]


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
        donor: whose weights to take where they are the same, or None.

    Attributes:
        shared: canonical names of what was taken; the others are its own.

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
        donor: Donor | None = None,
    ) -> None:
        assert quantization in ("none", "fp8"), quantization
        self._quantized = quantization == "fp8"
        if self._quantized:
            check_fp8(spec, operations, device)
        self.spec, self.operations, self.device, self.dtype = spec, operations, device, dtype
        self.quantization = quantization
        self.shared: set[str] = set()
        self.embedding = self._embedding(donor)
        layers = spec.layers if num_layers is None else spec.layers[:num_layers]
        self.blocks = [self._block(index, donor) for index in range(len(layers))]
        self.final_norm: Tensor | None = None
        self.head: Linear | None = None
        if num_layers is None:
            self.final_norm = torch.empty(spec.d_model, device=device, dtype=dtype)
            self.head = self._head(donor)
        num_positions = min(max_positions, spec.max_positions)
        self.rope_tables = [cos_sin_table(rope, num_positions, device) for rope in spec.ropes]

    def _embedding(self, donor: Donor | None) -> Tensor:
        if donor is not None and donor.holds(_EMBEDDING):
            self.shared.add(_EMBEDDING)
            return donor.decoder.embedding
        shape = (self.spec.vocab_size, self.spec.d_model)
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def _block(self, index: int, donor: Donor | None) -> Block:
        name = f"model.layers.{index}"
        given = () if donor is None else donor.decoder.blocks
        alike = donor is not None and donor.decoder.quantization == self.quantization
        if donor is not None and alike and index < len(given) and donor.holds(name):
            self.shared.add(name)
            return given[index]
        layer = self.spec.layers[index]
        return Block(self.spec, layer, self.operations, self.device, self.dtype, self._quantized)

    def _head(self, donor: Donor | None) -> Linear:
        spec = self.spec
        tied = self.embedding if spec.tie_word_embeddings else None
        if donor is not None and donor.decoder.head is not None:
            same_tie = donor.decoder.spec.tie_word_embeddings == spec.tie_word_embeddings
            if same_tie and (donor.holds(_HEAD) if tied is None else _EMBEDDING in self.shared):
                self.shared.add(_HEAD)
                return donor.decoder.head
        return Linear(
            spec.d_model,
            spec.vocab_size,
            bias=False,
            device=self.device,
            dtype=self.dtype,
            weight=tied,
        )

    def targets(self) -> dict[str, Tensor | Fp8Rows]:
        """Hugging Face parameter names and what a loader fills (`fill`), mostly views."""
        named: dict[str, Tensor | Fp8Rows] = {}
        if _EMBEDDING not in self.shared:
            named[_EMBEDDING] = self.embedding
        for index, block in enumerate(self.blocks):
            if f"model.layers.{index}" in self.shared:
                continue
            for name, target in block.targets().items():
                named[f"model.layers.{index}.{name}"] = target
        if self.final_norm is not None and self.head is not None:
            named["model.norm.weight"] = self.final_norm
            if not self.spec.tie_word_embeddings and _HEAD not in self.shared:
                named[_HEAD] = self.head.weight
        return named

    def pack(self) -> None:
        """Lay the weights out for the device; call once they are filled."""
        for index, block in enumerate(self.blocks):
            if f"model.layers.{index}" not in self.shared:
                for linear in block.linears:
                    linear.pack()
        if self.head is not None and _HEAD not in self.shared:
            self.head.pack(keep_weight=self.spec.tie_word_embeddings)

    @contextmanager
    def unpacked(self) -> Iterator[dict[str, Tensor]]:
        """The weights of a decoder that owns all of them, to be read or filled in place.

        On a CUDA device they never move; on a CPU what was packed is packed anew behind this.
        """
        assert not self._quantized and not self.shared
        linears = [linear for block in self.blocks for linear in block.linears]
        if self.head is not None:
            linears.append(self.head)
        for linear in linears:
            assert isinstance(linear, Linear)
            linear.unpack()
        try:
            yield {name: t for name, t in self.targets().items() if isinstance(t, Tensor)}
        finally:
            self.pack()

    def embed(
        self,
        input_ids: Tensor,
        injected_rows: Tensor | None = None,
        buffer: Tensor | None = None,
        buffer_rows: Tensor | None = None,
    ) -> Tensor:
        """Embedding rows, a buffer's over some: see `gloss_kernels.reference.embed_inject`."""
        return self.operations.embed_inject(
            self.embedding,
            input_ids,
            embed_scale=self.spec.embed_scale,
            injected_rows=injected_rows,
            buffer=buffer,
            buffer_rows=buffer_rows,
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
            [num_tokens, d_model] the residual stream after the last block that ran, not normed; of
            the wanted rows, in their order, where the batch names some.
        """
        residual, pending = hidden_states, None
        wanted = batch.wanted
        injected = None if batch.injection is None else batch.injection.layer_index
        captured = -1 if batch.capture is None else batch.capture.layer_index
        rotations = [table.index_select(0, batch.positions) for table in self.rope_tables]
        blocks = self.blocks[: batch.num_blocks]
        assert captured < len(blocks) - (wanted is not None)
        for index, block in enumerate(blocks):
            cos_sin = rotations[block.layer.rope_index]
            if pending is None:
                normed = block.norm_for_linear(residual, block.input_norm, None)
            else:
                normed = block.norm_for_linear(pending, block.input_norm, residual)
            if index and captured == index - 1:
                # The norm has just added what that block left: its output is whole only here.
                self._capture(residual, batch.capture)
            is_last = index == len(blocks) - 1 and injected != index
            now = wanted if is_last else None
            attended, keys, values = block.attention(normed, batch, index, cos_sin, now)
            if is_last:
                residual, wanted = chosen_rows(residual, wanted), None
            if collect is not None:
                collect.append((keys, values))
            if block.post_attention_norm is not None:
                attended = block.norm(attended, block.post_attention_norm, None)
            pending = block.mlp(block.norm_for_linear(attended, block.mlp_norm, residual))
            if block.post_mlp_norm is not None:
                pending = block.norm(pending, block.post_mlp_norm, None)
            if batch.injection is not None and injected == index:
                residual, pending = _inject(residual.add_(pending), batch.injection), None
        hidden_states = residual if pending is None else residual.add_(pending)
        if captured == len(blocks) - 1:
            self._capture(hidden_states, batch.capture)
        return chosen_rows(hidden_states, wanted)

    def _capture(self, residual: Tensor, capture: Capture | None) -> None:
        assert capture is not None
        self.operations.hook_gather(
            residual,
            capture.rows,
            buffer=capture.buffer,
            buffer_rows=capture.buffer_rows,
            injection_scale=capture.injection_scale,
            out=(capture.raw, capture.norms),
        )

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


def _inject(residual: Tensor, injection: Injection) -> Tensor:
    """Add each direction, scaled to its row's own norm, to the residual stream in place."""
    rows = residual.index_select(0, injection.rows).float()
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    rows += norms * injection.directions
    return residual.index_copy_(0, injection.rows, rows.to(residual.dtype))
