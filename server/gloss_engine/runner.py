"""Runs one step of a plan on the device: prefill and decode rows in one forward, then sampling.

Leaves to others: which sequences run (scheduler), what their text means (av).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gloss_engine.kv.pool import clear_pages, copy_pages
from gloss_engine.models.batch import (
    ForwardBatch,
    Injection,
    PagedCache,
    Prefix,
)
from gloss_engine.models.decoder import Decoder
from gloss_engine.scheduler import StepPlan
from gloss_engine.sequence import Item, Sequence
from gloss_engine.slots import Slots
from gloss_kernels import DecodePlan, Finish, PackedPlan, scale_to_norm

ADD_LAYER_INDEX = 1
"""The `add` dialect writes to the output of block 1 (hidden_states[2])."""


class Runner(Protocol):
    """What the engine needs of a runner; tests drive the engine with one that has no model."""

    def add_activations(self, request_id: str, activations: Tensor) -> None:
        """Keep a request's activations [n, d_model] until `drop_activations`."""

    def drop_activations(self, request_id: str) -> None:
        """Forget them."""

    def run(self, plan: StepPlan) -> list[int]:
        """Run a step; one `Finish` code for each of `plan.num_rows` slots."""

    def last_tokens(self) -> list[int]:
        """The token each slot got in the last step."""

    def output(self, slot: int) -> tuple[list[int], list[float]]:
        """Token ids and log-probabilities a slot has generated so far."""

    def retire(self, sequences: list[Sequence], moves: list[tuple[int, int]]) -> None:
        """Forget ended sequences, then apply slot moves in order."""


@dataclass(frozen=True, kw_only=True)
class AvProgram:
    """What is the same for every activation of a checkpoint.

    Attributes:
        suffix_ids: [suffix_len] int64, the marker and the prompt's tokens after it.
        prefix: keys and values of the prompt before the marker, None when there are none.
        injection_scale: L2 norm of an injected row.
        injection_mode: "replace" or "add".
        stop_table: [num_states + 1, vocab_size] uint8, the closing tag's automaton.
        is_eos: [vocab_size] bool.
    """

    suffix_ids: Tensor
    prefix: Prefix | None
    injection_scale: float
    injection_mode: str
    stop_table: Tensor
    is_eos: Tensor


class ModelRunner:
    """Runs plans on a decoder.

    Args:
        decoder: the AV.
        program: its prompt, prefix and stops.
        cache: the pages.
        slots: the state.
    """

    def __init__(
        self, decoder: Decoder, program: AvProgram, cache: PagedCache, slots: Slots
    ) -> None:
        self.decoder, self.program, self.cache, self.slots = decoder, program, cache, slots
        self.page_size = cache.keys.shape[3]
        self.suffix_len = program.suffix_ids.shape[0]
        self.prefix_len = 0 if program.prefix is None else len(program.prefix)
        self._activations: dict[str, Tensor] = {}
        self._item_logits: dict[Item, Tensor] = {}
        self._private_bound: list[int] = []

    def add_activations(self, request_id: str, activations: Tensor) -> None:
        """See `Runner`."""
        self._activations[request_id] = activations.to(self.decoder.device)

    def drop_activations(self, request_id: str) -> None:
        """See `Runner`."""
        self._activations.pop(request_id, None)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> list[int]:
        """See `Runner`."""
        for abandoned in plan.abandoned:
            self._item_logits.pop(abandoned.item, None)
            clear_pages(self.cache, torch.tensor(abandoned.pages))
        logits = self._fork_logits(plan, self._forward(plan))
        forks = [fork.sequence for fork in plan.forks]
        copies = [pair for fork in plan.forks for pair in fork.copies]
        sources, destinations = [pair[0] for pair in copies], [pair[1] for pair in copies]
        copy_pages(self.cache, sources, destinations, min(self.page_size, self.suffix_len))
        self.slots.admit(forks, self.suffix_len)
        self._private_bound.extend([self.suffix_len] * len(forks))
        codes = self._sample(plan.num_rows, logits)
        for slot, code in enumerate(codes):
            if code == Finish.ERROR:
                clear_pages(self.cache, self.slots.block_table[slot])
        return codes

    def last_tokens(self) -> list[int]:
        """See `Runner`."""
        tokens: list[int] = self.slots.tokens[: len(self._private_bound)].tolist()
        return tokens

    def output(self, slot: int) -> tuple[list[int], list[float]]:
        """See `Runner`."""
        count = int(self.slots.num_generated[slot])
        return (
            self.slots.token_ids[slot, :count].tolist(),
            self.slots.logprobs[slot, :count].tolist(),
        )

    @torch.inference_mode()
    def retire(self, sequences: list[Sequence], moves: list[tuple[int, int]]) -> None:
        """See `Runner`."""
        for sequence in sequences:
            self.slots.release(sequence)
        for source, destination in moves:
            self.slots.move(source, destination)
            self._private_bound[destination] = self._private_bound[source]
        del self._private_bound[len(self._private_bound) - len(sequences) :]

    def _forward(self, plan: StepPlan) -> Tensor:
        """Logits [num_decode + num_prefills, vocab_size] of the rows that run."""
        n, m = plan.num_decode, len(plan.prefills)
        if n + m == 0:
            shape = (0, self.decoder.spec.vocab_size)
            return torch.empty(shape, device=self.decoder.device, dtype=self.decoder.dtype)
        device = self.decoder.device
        ids, positions, slot_mapping = [], [], []
        decode = packed = None
        if n:
            decode = self._decode_plan(n)
            stored = self.slots.private_lens[:n]
            ids.append(self.slots.tokens[:n])
            positions.append(stored + self.prefix_len)
            table = self.slots.block_table[:n]
            page = table.gather(1, (stored // self.page_size).unsqueeze(1)).squeeze(1)
            slot_mapping.append(torch.stack((page, stored % self.page_size)))
        if m:
            at = torch.arange(self.suffix_len, device=device)
            pages = torch.tensor([prefill.pages for prefill in plan.prefills], device=device)
            page = pages[:, at // self.page_size].view(-1)
            ids.append(self.program.suffix_ids.repeat(m))
            positions.append((at + self.prefix_len).repeat(m))
            slot_mapping.append(torch.stack((page, (at % self.page_size).repeat(m))))
            starts = torch.arange(m + 1, device=device) * self.suffix_len
            packed = PackedPlan(starts, num_tokens=m * self.suffix_len, max_seqlen=self.suffix_len)
        starting = [prefill.item for prefill in plan.prefills]
        hidden_states, injection = self._embed(torch.cat(ids), n, starting)
        batch = ForwardBatch(
            positions=torch.cat(positions),
            decode=decode,
            packed=packed,
            prefix=self.program.prefix,
            cache=self.cache,
            slot_mapping=torch.cat(slot_mapping, dim=1),
            injection=injection,
        )
        hidden_states = self.decoder.forward(hidden_states, batch)
        if m:
            last = torch.arange(1, m + 1, device=device) * self.suffix_len + (n - 1)
            rows = torch.cat((torch.arange(n, device=device), last))
            hidden_states = hidden_states.index_select(0, rows)
        if n:
            self.slots.private_lens[:n] += 1
            self._private_bound = [bound + 1 for bound in self._private_bound]
        return self.decoder.logits(hidden_states)

    def _decode_plan(self, n: int) -> DecodePlan:
        return DecodePlan(
            self.slots.block_table[:n],
            self.slots.private_lens[:n] + 1,
            max_private_len=max(self._private_bound) + 1,
            page_size=self.page_size,
            num_kv_heads=self.decoder.spec.num_kv_heads,
            prefix_len=self.prefix_len,
        )

    def _embed(
        self, ids: Tensor, num_decode: int, prefills: list[Item]
    ) -> tuple[Tensor, Injection | None]:
        """Embedded rows, with the activations of the prefilled items in their places."""
        if not prefills:
            return self.decoder.embed(ids), None
        count = torch.arange(len(prefills), device=ids.device)
        rows = count * self.suffix_len + num_decode
        activations = torch.stack(
            [self._activations[item.request_id][item.index] for item in prefills]
        )
        if self.program.injection_mode == "replace":
            return self.decoder.embed(ids, rows, activations, self.program.injection_scale), None
        directions = scale_to_norm(activations, 1.0)
        injection = Injection(layer_index=ADD_LAYER_INDEX, rows=rows, directions=directions)
        return self.decoder.embed(ids), injection

    def _fork_logits(self, plan: StepPlan, logits: Tensor) -> Tensor:
        """Logits [num_rows, vocab_size] of the slots, from those of rows and of waiting items."""
        n = plan.num_decode
        place = {prefill.item: n + i for i, prefill in enumerate(plan.prefills)}
        items = [fork.sequence.item for fork in plan.forks]
        in_order = items == list(place)
        carried = [self._item_logits[item] for item in items if item not in place]
        for item, row in place.items():
            if item.num_forked < item.num_samples:
                self._item_logits[item] = logits[row].clone()
        for fork in plan.forks:
            if fork.last:
                self._item_logits.pop(fork.sequence.item, None)
        if in_order:
            return logits
        start = logits.shape[0]
        if carried:
            logits = torch.cat((logits, torch.stack(carried)))
        order, taken = list(range(n)), 0
        for item in items:
            if item in place:
                order.append(place[item])
            else:
                order.append(start + taken)
                taken += 1
        return logits.index_select(0, torch.tensor(order, device=logits.device))

    def _sample(self, n: int, logits: Tensor) -> list[int]:
        """Draw a token for rows 0 .. n-1 and advance their state."""
        slots, program = self.slots, self.program
        presence = slots.presence if slots.uses("penalty") else None
        at = slots.num_generated[:n].unsqueeze(1)
        tokens, logprobs, finite = self.decoder.operations.sample(
            logits,
            slots.uniforms[:n].gather(1, at).squeeze(1) if slots.uses("draw") else None,
            temperatures=slots.temperatures[:n],
            any_greedy=slots.uses("greedy"),
            top_ks=slots.top_ks[:n] if slots.uses("top_k") else None,
            top_ps=slots.top_ps[:n] if slots.uses("top_p") else None,
            min_ps=slots.min_ps[:n] if slots.uses("min_p") else None,
            penalties=None if presence is None else slots.penalties[:n],
            presence=None if presence is None else presence[:n],
        )
        codes = self.decoder.operations.advance(
            tokens,
            logprobs,
            finite,
            last_tokens=slots.tokens[:n],
            token_ids=slots.token_ids[:n],
            token_logprobs=slots.logprobs[:n],
            stop_states=slots.stop_states[:n],
            num_generated=slots.num_generated[:n],
            limits=slots.max_tokens[:n],
            stop_table=program.stop_table,
            is_eos=program.is_eos,
            presence=None if presence is None else presence[:n],
        )
        return codes.tolist()
