"""The state of running sequences as device tensors, one row a slot.

Rows 0 .. n-1 are in use; a step reads and writes views of them. The host writes a row when its
sequence starts and reads it when the sequence has ended, never in between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_engine.sampling import SamplingParams
from gloss_engine.sequence import Sequence
from gloss_kernels import Operations


@dataclass(frozen=True, kw_only=True)
class SlotLimits:
    """Sizes of the state.

    Attributes:
        num_slots: rows.
        max_new_tokens: most tokens a sequence may generate.
        max_pages: most private pages of a sequence.
        vocab_size: for the presence map.
    """

    num_slots: int
    max_new_tokens: int
    max_pages: int
    vocab_size: int


def _filters(sampling: SamplingParams) -> tuple[str, ...]:
    """The parts of the sampler that a sequence with these settings needs."""
    used = {
        "greedy": sampling.temperature == 0,
        "draw": sampling.temperature > 0,
        "top_k": sampling.temperature > 0 and sampling.top_k > 0,
        "top_p": sampling.temperature > 0 and sampling.top_p < 1,
        "min_p": sampling.temperature > 0 and sampling.min_p > 0,
        "penalty": sampling.repetition_penalty != 1,
    }
    return tuple(name for name, needed in used.items() if needed)


class Slots:
    """Device state of up to `num_slots` sequences.

    Attributes:
        tokens: [num_slots] int64 last token, not yet in the cache.
        private_lens: [num_slots] int64 private keys stored.
        num_generated, max_tokens: [num_slots] int64 tokens generated, and allowed.
        stop_states: [num_slots] int64 state of the stop automaton.
        block_table: [num_slots, max_pages] int64 private pages; 0 where there is none.
        temperatures, top_ps, min_ps, penalties: [num_slots] float32; top_ks: int64.
        uniforms: [num_slots, max_new_tokens] float32 every draw the sequence may need.
        token_ids: [num_slots, max_new_tokens] int64; logprobs: the same shape, float32.
        presence: [num_slots, ceil(vocab_size / 32)] int32 bitmap of tokens generated, bit v % 32
            of word v // 32 for token v; None until a penalty is first used.
    """

    def __init__(self, limits: SlotLimits, operations: Operations, device: torch.device) -> None:
        self.limits, self.operations, self.device = limits, operations, device
        n, length = limits.num_slots, limits.max_new_tokens

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.tokens, self.private_lens, self.num_generated = zeros(n), zeros(n), zeros(n)
        self.max_tokens, self.stop_states, self.top_ks = zeros(n), zeros(n), zeros(n)
        self.block_table = zeros(n, limits.max_pages)
        self.temperatures = zeros(n, dtype=torch.float32)
        self.top_ps = zeros(n, dtype=torch.float32)
        self.min_ps = zeros(n, dtype=torch.float32)
        self.penalties = zeros(n, dtype=torch.float32)
        self.uniforms = zeros(n, length, dtype=torch.float32)
        self.token_ids = zeros(n, length)
        self.logprobs = zeros(n, length, dtype=torch.float32)
        self.presence: Tensor | None = None
        self._in_use: Counter[str] = Counter()

    def uses(self, part: str) -> bool:
        """Whether any sequence in a slot needs this part of the sampler."""
        return self._in_use[part] > 0

    def admit(self, sequences: list[Sequence], suffix_len: int) -> None:
        """Write the rows of sequences that start; their slots are consecutive."""
        if not sequences:
            return
        rows = slice(sequences[0].slot, sequences[-1].slot + 1)
        settings = [sequence.item.sampling for sequence in sequences]

        def column(target: Tensor, values: list[float] | list[int]) -> None:
            target[rows] = torch.tensor(values, dtype=target.dtype, device=self.device)

        column(self.temperatures, [s.temperature for s in settings])
        column(self.top_ks, [s.top_k for s in settings])
        column(self.top_ps, [s.top_p for s in settings])
        column(self.min_ps, [s.min_p for s in settings])
        column(self.penalties, [s.repetition_penalty for s in settings])
        column(self.max_tokens, [s.max_new_tokens for s in settings])
        self.private_lens[rows] = suffix_len
        self.num_generated[rows] = 0
        self.stop_states[rows] = 0
        width = self.limits.max_pages
        padded = [sequence.pages + [0] * (width - len(sequence.pages)) for sequence in sequences]
        self.block_table[rows] = torch.tensor(padded, device=self.device)
        for s in settings:
            self._in_use.update(_filters(s))
        if any(s.temperature > 0 for s in settings):
            self._draw(rows, sequences)
        if self.uses("penalty"):
            self._presence()[rows] = 0

    def release(self, sequence: Sequence) -> None:
        """Forget what an ended sequence needed of the sampler."""
        self._in_use.subtract(_filters(sequence.item.sampling))

    def move(self, source: int, destination: int) -> None:
        """Copy one row over another."""
        for tensor in self._rows():
            tensor[destination] = tensor[source]

    def _draw(self, rows: slice, sequences: list[Sequence]) -> None:
        """Fill the draws of consecutive rows: positions count generated tokens from 0."""
        items = [sequence.item for sequence in sequences]
        width = max(item.sampling.max_new_tokens for item in items)

        def signed(values: list[int]) -> Tensor:
            wrapped = [value - 2**64 if value >= 2**63 else value for value in values]
            return torch.tensor(wrapped, device=self.device).unsqueeze(1)

        self.uniforms[rows, :width] = self.operations.philox_uniform(
            signed([item.seed for item in items]),
            signed([item.item_key for item in items]),
            signed([sequence.sample for sequence in sequences]),
            torch.arange(width, device=self.device).unsqueeze(0),
        )

    def _presence(self) -> Tensor:
        """The presence map, made when a penalty is first used."""
        if self.presence is None:
            shape = (self.limits.num_slots, -(-self.limits.vocab_size // 32))
            self.presence = torch.zeros(shape, dtype=torch.int32, device=self.device)
        return self.presence

    def _rows(self) -> list[Tensor]:
        rows = [
            self.tokens,
            self.private_lens,
            self.num_generated,
            self.max_tokens,
            self.stop_states,
            self.block_table,
            self.temperatures,
            self.top_ks,
            self.top_ps,
            self.min_ps,
            self.penalties,
            self.uniforms,
            self.token_ids,
            self.logprobs,
        ]
        return rows if self.presence is None else [*rows, self.presence]
