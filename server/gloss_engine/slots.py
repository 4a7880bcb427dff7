"""The state of running sequences as device tensors, one row a slot.

A step reads and writes views of the first rows. The host writes a row when its sequence starts,
says which rows nobody holds, and moves rows; it never reads any. All that it learns of a step is
the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gloss_engine.sampling import SamplingParams
from gloss_engine.transfer import send
from gloss_kernels import Finish, Operations

IDLE, PAUSED = -1, -2
"""Codes of a row that nobody holds, and of one that waits; of one that ended it is a `Finish`."""
_COLUMNS = (
    *("codes", "tokens", "private_lens", "num_generated", "max_tokens", "stop_states"),
    *("block_table", "temperatures", "top_ks", "top_ps", "min_ps", "penalties", "uniforms"),
)
"""Every tensor with a row a slot, but for the presence map, which may not be there."""


class Draws(Protocol):
    """What the draws of a sequence depend on, apart from its sample."""

    @property
    def sampling(self) -> SamplingParams: ...
    @property
    def seed(self) -> int: ...
    @property
    def item_key(self) -> int: ...
    @property
    def earlier_ids(self) -> tuple[int, ...]:
        """Tokens it generated before it was given a row, which its draws and its penalty count."""


class RowOwner(Protocol):
    """A sequence that is given a row."""

    @property
    def item(self) -> Draws: ...
    @property
    def sample(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def pages(self) -> list[int]: ...


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


def _parts(sampling: SamplingParams) -> tuple[str, ...]:
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
        codes: [num_slots] int64, `Finish.RUNNING` where a sequence runs, else why not.
        tokens: [num_slots] int64 last token, not yet in the cache.
        private_lens: [num_slots] int64 private keys stored.
        num_generated, max_tokens: [num_slots] int64 tokens generated, and allowed.
        stop_states: [num_slots] int64 state of the stop automaton.
        block_table: [num_slots, max_pages] int64 private pages; 0 where there is none.
        temperatures, top_ps, min_ps, penalties: [num_slots] float32; top_ks: int64.
        uniforms: [num_slots, max_new_tokens + 1] float32 every draw the sequence may need; the last
            column is for rows that have ended.
        presence: [num_slots, ceil(vocab_size / 32)] int32 bitmap of tokens generated, bit v % 32
            of word v // 32 for token v; None until a penalty is first used.
        report: [3, num_slots] int32, the last step's tokens, bits of their float32
            log-probabilities, and codes.
    """

    def __init__(self, limits: SlotLimits, operations: Operations, device: torch.device) -> None:
        self.limits, self.operations, self.device = limits, operations, device
        n = limits.num_slots

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.codes = zeros(n).fill_(IDLE)
        self.tokens, self.private_lens, self.num_generated = zeros(n), zeros(n), zeros(n)
        self.max_tokens, self.stop_states, self.top_ks = zeros(n), zeros(n), zeros(n)
        self.block_table = zeros(n, limits.max_pages)
        self.temperatures, self.min_ps = (zeros(n, dtype=torch.float32) for _ in range(2))
        self.top_ps, self.penalties = (zeros(n, dtype=torch.float32).fill_(1) for _ in range(2))
        self.uniforms = zeros(n, limits.max_new_tokens + 1, dtype=torch.float32)
        self.presence: Tensor | None = None
        self.report = zeros(3, n, dtype=torch.int32)
        self._in_use: Counter[str] = Counter()
        self._parts_of: dict[int, tuple[str, ...]] = {}

    def parts(self) -> frozenset[str]:
        """The parts of the sampler that any sequence in a slot needs."""
        return frozenset(+self._in_use)

    def beginning_at(self, first: int) -> Slots:
        """The rows from `first` on, as views: what a step does to them it does to these."""
        if first == 0:
            return self
        part = copy(self)
        for name in _COLUMNS:
            setattr(part, name, getattr(self, name)[first:])
        if self.presence is not None:
            part.presence = self.presence[first:]
        part.report = self.report[:, first:]
        return part

    def warm_up(self) -> None:
        """Compile what writing rows needs."""
        zeros = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self.operations.philox_uniform(zeros, zeros, zeros, zeros)

    def require_presence(self) -> Tensor:
        """The presence map, made when it is first needed."""
        if self.presence is None:
            shape = (self.limits.num_slots, -(-self.limits.vocab_size // 32))
            self.presence = torch.zeros(shape, dtype=torch.int32, device=self.device)
        return self.presence

    def vacate(self, slots: list[int]) -> None:
        """Nobody holds these rows any more; one that never started is idle as it is."""
        self.codes.index_fill_(0, send(slots, self.device), IDLE)
        for slot in slots:
            self._in_use.subtract(self._parts_of.pop(slot, ()))

    def vacate_all(self) -> None:
        """Nobody holds any row; asks for no memory."""
        self.codes.fill_(IDLE)
        self._in_use.clear()
        self._parts_of.clear()

    def move(self, moves: list[tuple[int, int]]) -> None:
        """Copy rows, (source, destination), over idle ones; no row is both."""
        source, destination = send(list(zip(*moves, strict=True)), self.device)
        columns = [getattr(self, name) for name in _COLUMNS]
        for tensor in columns if self.presence is None else [*columns, self.presence]:
            tensor[destination] = tensor[source]
        self.codes.index_fill_(0, source, IDLE)
        for old, new in moves:
            self._parts_of[new] = self._parts_of.pop(old)

    def set_codes(self, slots: list[int], code: int) -> None:
        """Let rows that are held wait (PAUSED), or go on (`Finish.RUNNING`)."""
        self.codes.index_fill_(0, send(slots, self.device), code)

    def start(
        self, sequences: Sequence[RowOwner], first_tokens: Tensor, private_lens: list[int]
    ) -> None:
        """Write the rows of sequences that start; they run from the last write on.

        Args:
            sequences: with their slots and pages.
            first_tokens: [n] or [1] int64 tokens that they decode first.
            private_lens: private keys that each has stored by then.
        """
        settings = [sequence.item.sampling for sequence in sequences]
        width = self.limits.max_pages
        whole = send(
            [
                (
                    sequence.slot,
                    sampling.max_new_tokens,
                    sampling.top_k,
                    private_len,
                    *(sequence.pages + [0] * (width - len(sequence.pages))),
                )
                for sequence, sampling, private_len in zip(
                    sequences, settings, private_lens, strict=True
                )
            ],
            self.device,
        )
        rows = whole[:, 0]
        real = send(
            [(s.temperature, s.top_p, s.min_p, s.repetition_penalty) for s in settings],
            self.device,
            torch.float32,
        )
        self.max_tokens[rows], self.top_ks[rows] = whole[:, 1], whole[:, 2]
        self.private_lens[rows], self.block_table[rows] = whole[:, 3], whole[:, 4:]
        self.temperatures[rows], self.top_ps[rows] = real[:, 0], real[:, 1]
        self.min_ps[rows], self.penalties[rows] = real[:, 2], real[:, 3]
        self.tokens[rows] = first_tokens
        self.num_generated.index_fill_(0, rows, 0)
        self.stop_states.index_fill_(0, rows, 0)
        if any(s.temperature > 0 for s in settings):
            self._draw(rows, sequences)
        if any(s.repetition_penalty != 1 for s in settings) or self.presence is not None:
            self.require_presence().index_fill_(0, rows, 0)
            self._mark_earlier(sequences)
        # Last: rows that there was no memory to write are idle still.
        self.codes.index_fill_(0, rows, int(Finish.RUNNING))
        for sequence, sampling in zip(sequences, settings, strict=True):
            self._parts_of[sequence.slot] = _parts(sampling)
            self._in_use.update(self._parts_of[sequence.slot])

    def _draw(self, rows: Tensor, sequences: Sequence[RowOwner]) -> None:
        """Fill the draws of rows: positions count generated tokens from 0, earlier ones too."""
        items = [sequence.item for sequence in sequences]
        width = max(item.sampling.max_new_tokens for item in items)
        counters = send(
            [
                [_signed(item.seed) for item in items],
                [_signed(item.item_key) for item in items],
                [sequence.sample for sequence in sequences],
                [len(item.earlier_ids) for item in items],
            ],
            self.device,
        ).unsqueeze(2)
        seeds, item_keys, samples, firsts = counters.unbind()
        positions = firsts + torch.arange(width, device=self.device)
        self.uniforms[rows, :width] = self.operations.philox_uniform(
            seeds, item_keys, samples, positions
        )

    def _mark_earlier(self, sequences: Sequence[RowOwner]) -> None:
        """Put tokens that sequences generated before into the presence map."""
        presence = self.require_presence()
        for sequence in sequences:
            words: dict[int, int] = {}
            for token_id in sequence.item.earlier_ids:
                words[token_id // 32] = words.get(token_id // 32, 0) | 1 << token_id % 32
            if words:
                bits = [word - 2**32 if word >= 2**31 else word for word in words.values()]
                row = presence[sequence.slot]
                row[send(list(words), self.device)] = send(bits, self.device, torch.int32)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return value - 2**64 if value >= 2**63 else value
