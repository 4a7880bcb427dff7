"""One step of the target on the device: a token for every sequence it generates, and the activation
that stands where the token before was.

The capture is part of the step: while the residual stream passes block K, one launch copies its
rows out, takes their norms, and writes those that will be explained at their injection norm into
the AV's prefill buffer. Like the AV's step it asks the host nothing, so it can be one graph.
"""

from __future__ import annotations

import torch

from gloss_engine.decode_rows import Stops, decode_rows, draw
from gloss_engine.models.batch import Capture, ForwardBatch, PagedCache
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.slots import Slots
from gloss_engine.step_shape import StepShape
from gloss_engine.target.target import Target


class TargetStep:
    """Runs steps of any number of rows; see StepGraphs.

    Args:
        target: whole.
        cache: its pages.
        slots: the state of its sequences.
        buffer: the AV's prefill buffer.

    Attributes:
        places: [num_slots] int64 row of the prefill buffer for each slot's activation; 0 where it
            is not explained.
        raw: [num_slots, d_model] float32 activations of the last step.
        norms: [num_slots] float32, their L2 norms.
    """

    def __init__(
        self, target: Target, cache: PagedCache, slots: Slots, buffer: PrefillBuffer
    ) -> None:
        self.target, self.decoder, self.cache, self.slots = target, target.decoder, cache, slots
        self.buffer, self.page_size = buffer, cache.keys.shape[3]
        device, n = target.decoder.device, slots.limits.num_slots
        self.places = torch.zeros(n, dtype=torch.int64, device=device)
        self.raw = torch.zeros(n, target.spec.d_model, device=device)
        self.norms = torch.zeros(n, device=device)
        self._rows = torch.arange(n, device=device)
        self._stops = _stops(target)

    @torch.inference_mode()
    def run(self, shape: StepShape, first: int = 0) -> None:
        """Run one step over the slots from `first` on; its results are in the slots' report, `raw`
        and `norms`. As the AV's, it writes the state last.
        """
        slots, decoder, n = self.slots.beginning_at(first), self.decoder, shape.num_rows
        rows = decode_rows(
            slots,
            n,
            page_size=self.page_size,
            num_kv_heads=decoder.spec.num_kv_heads,
            prefix_len=0,
            max_private_len=shape.max_private_len,
        )
        batch = ForwardBatch(
            positions=rows.positions,
            decode=rows.plan,
            cache=self.cache,
            slot_mapping=rows.places,
            capture=Capture(
                layer_index=self.target.layer_index,
                rows=self._rows[:n],
                raw=self.raw[first : first + n],
                norms=self.norms[first : first + n],
                buffer=self.buffer.rows,
                buffer_rows=self.places[first : first + n],
                injection_scale=self.buffer.injection_scale,
            ),
        )
        hidden_states = decoder.forward(decoder.embed(rows.ids), batch)
        draw(decoder, slots, hidden_states, shape.parts, self._stops)
        slots.private_lens[:n] += rows.running


def _stops(target: Target) -> Stops:
    """End-of-sequence ids, and no text."""
    vocab_size, device = target.spec.vocab_size, target.decoder.device
    is_eos = torch.zeros(vocab_size, dtype=torch.bool)
    is_eos[[index for index in target.eos_ids if index < vocab_size]] = True
    # One state, which no token leaves, and a final one that none reaches.
    table = torch.zeros(2, vocab_size, dtype=torch.uint8)
    table[1] = 1
    return Stops(table=table.to(device), is_eos=is_eos.to(device))
