"""One step on the device: prefills and decode rows in one forward, sampling, and the state after.

Reads and writes tensors that stay where they are, makes no decision that depends on their values,
and asks the host nothing: so a step of one shape can be captured once and replayed. On a CPU the
same code runs as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_engine.decode_rows import Stops, decode_rows, draw
from gloss_engine.models.batch import ForwardBatch, Injection, PagedCache
from gloss_engine.models.decoder import Decoder
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.program import ADD_LAYER_INDEX, AvProgram
from gloss_engine.slots import Slots
from gloss_engine.step_shape import StepShape
from gloss_kernels import PackedPlan


class Step:
    """Runs steps of any shape.

    Args:
        decoder: the AV.
        program: its prompt, prefix and stops.
        cache: the pages.
        slots: the state.
        prefill_buffer: the rows that prefills inject.

    Attributes:
        prefill_pages: [max_prefills, pages of a suffix] int64, where the suffixes go.
        prefill_rows: [max_prefills] int64, the rows of the buffer that are injected into them.
        prefill_len: tokens of a suffix that are prefilled: all but the last.
    """

    def __init__(
        self,
        decoder: Decoder,
        program: AvProgram,
        cache: PagedCache,
        slots: Slots,
        prefill_buffer: PrefillBuffer,
    ) -> None:
        self.decoder, self.program, self.cache, self.slots = decoder, program, cache, slots
        self.prefill_buffer = prefill_buffer
        self.page_size = cache.keys.shape[3]
        self.prefill_len = program.suffix_ids.shape[0] - 1
        num_pages = -(-self.prefill_len // self.page_size)
        max_prefills, device = prefill_buffer.max_prefills, decoder.device
        self.prefill_pages = torch.zeros(max_prefills, num_pages, dtype=torch.int64, device=device)
        self.prefill_rows = torch.zeros(max_prefills, dtype=torch.int64, device=device)
        self._stops = Stops(table=program.stop_table, is_eos=program.is_eos)

    @torch.inference_mode()
    def run(self, shape: StepShape, first: int = 0) -> None:
        """Run one step over the slots from `first` on; its results are in the slots' report.

        The state is written last, when all that takes memory has been done: a step that fails for
        want of it has written keys and values alone, and can be run again, whole or in parts.
        """
        slots, n, m = self.slots.beginning_at(first), shape.num_rows, shape.num_prefills
        ids, positions, places = [], [], []
        decode = packed = None
        if n:
            rows = decode_rows(
                slots,
                n,
                page_size=self.page_size,
                num_kv_heads=self.decoder.spec.num_kv_heads,
                prefix_len=self.program.prefix_len,
                max_private_len=shape.max_private_len,
            )
            ids.append(rows.ids)
            positions.append(rows.positions)
            places.append(rows.places)
            decode = rows.plan
        if m:
            at = torch.arange(self.prefill_len, device=self.decoder.device)
            pages = self.prefill_pages[:m, at // self.page_size].reshape(-1)
            ids.append(self.program.suffix_ids[:-1].repeat(m))
            positions.append((at + self.program.prefix_len).repeat(m))
            places.append(torch.stack((pages, (at % self.page_size).repeat(m))))
            packed = self._packed_plan(m)
        hidden_states, injection = self._embed(torch.cat(ids), n, m)
        batch = ForwardBatch(
            positions=torch.cat(positions),
            decode=decode,
            packed=packed,
            prefix=self.program.prefix,
            cache=self.cache,
            slot_mapping=torch.cat(places, dim=1),
            injection=injection,
            wanted=slice(0, n) if m else None,
        )
        hidden_states = self.decoder.forward(hidden_states, batch)
        if n:
            draw(self.decoder, slots, hidden_states, shape.parts, self._stops)
            slots.private_lens[:n] += rows.running

    def _packed_plan(self, num_prefills: int) -> PackedPlan:
        starts = torch.arange(num_prefills + 1, device=self.decoder.device) * self.prefill_len
        return PackedPlan(
            starts, num_tokens=num_prefills * self.prefill_len, max_seqlen=self.prefill_len
        )

    def _embed(
        self, ids: Tensor, num_rows: int, num_prefills: int
    ) -> tuple[Tensor, Injection | None]:
        """Embedded rows, with the activations in their places."""
        if num_prefills == 0:
            return self.decoder.embed(ids), None
        rows = torch.arange(num_prefills, device=ids.device) * self.prefill_len + num_rows
        buffer, buffer_rows = self.prefill_buffer.rows, self.prefill_rows[:num_prefills]
        if self.program.injection_mode == "replace":
            return self.decoder.embed(ids, rows, buffer, buffer_rows), None
        directions = buffer.index_select(0, buffer_rows)
        injection = Injection(layer_index=ADD_LAYER_INDEX, rows=rows, directions=directions)
        return self.decoder.embed(ids), injection
