"""Which sequences run in the next step: slots, pages, and who waits. No tensors, no model.

Sequences fill slots 0 .. n-1 without holes, so that a step runs over the first n rows of every
state tensor; when one leaves, the last takes its slot. Pages for a sequence's whole limit are
reserved when it starts, so nothing is ever preempted. Items start in arrival order. The samples of
an item fork from one prefill: each copies the pages of the prefilled suffix, the last takes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.sequence import Item, Sequence


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """An item whose suffix is computed in this step, and the pages that take its keys."""

    item: Item
    pages: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A sequence that starts in this step.

    Attributes:
        sequence: in its slot, which follows those of all that ran before.
        copies: pages to copy, as (source, destination), before it runs.
        last: its item's last one, after which the item's logits are no longer needed.
    """

    sequence: Sequence
    copies: list[tuple[int, int]]
    last: bool


@dataclass(kw_only=True)
class StepPlan:
    """One step's work.

    Attributes:
        num_decode: sequences that already run, in slots 0 .. num_decode - 1.
        prefills: suffixes computed in this step.
        forks: sequences that start in this step, in slot order after the running ones.
        abandoned: items dropped between two forks, with the pages they held; they come with the
            next plan that has rows.
    """

    num_decode: int = 0
    prefills: list[Prefill] = field(default_factory=list)
    forks: list[Fork] = field(default_factory=list)
    abandoned: list[Prefill] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Sequences that get a token in this step."""
        return self.num_decode + len(self.forks)


class Scheduler:
    """Admits items, forks their samples and keeps slots and pages.

    Args:
        allocator: the pages.
        num_slots: most sequences that run at once.
        suffix_len: prompt tokens after the shared prefix, at least 1.
        max_prefill_tokens: most suffix tokens prefilled in one step (one item always goes).
    """

    def __init__(
        self, allocator: BlockAllocator, num_slots: int, suffix_len: int, max_prefill_tokens: int
    ) -> None:
        assert num_slots >= 1 and suffix_len >= 1
        self.allocator, self.num_slots, self.suffix_len = allocator, num_slots, suffix_len
        self.max_prefill_items = max(1, max_prefill_tokens // suffix_len)
        self.waiting: deque[Item] = deque()
        self.running: list[Sequence] = []
        self._abandoned: list[Prefill] = []

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def pages_needed(self, max_new_tokens: int, num_samples: int) -> int:
        """Pages one item needs to make progress; more than the pool has can never run."""
        whole = self._sequence_pages(max_new_tokens)
        return whole if num_samples == 1 else whole + self.allocator.pages_for(self.suffix_len)

    def add(self, item: Item) -> None:
        """Queue an item."""
        self.waiting.append(item)

    def cancel(self, request_id: str) -> list[Item]:
        """Take a request's waiting items out and mark its sequences to leave at the next step.

        Returns:
            The items that still had samples to fork.
        """
        dropped = [item for item in self.waiting if item.request_id == request_id]
        for item in dropped:
            self.waiting.remove(item)
            if item.prefilled:
                self._abandoned.append(Prefill(item=item, pages=tuple(item.suffix_pages)))
            self.allocator.free(item.suffix_pages)
            item.suffix_pages = []
        for sequence in self.running:
            if sequence.item.request_id == request_id:
                sequence.cancelled = True
        return dropped

    def schedule(self) -> StepPlan:
        """Admit what fits and say what the next step runs. Call after departures are retired."""
        plan = StepPlan(num_decode=len(self.running))
        while self.waiting:
            item = self.waiting[0]
            starts = not item.prefilled
            if starts and len(plan.prefills) == self.max_prefill_items:
                break
            if not self._fork_all(item, plan):
                break
            self.waiting.popleft()
        if plan.num_rows:
            # Nobody runs a plan without rows, and no page of theirs is handed out before this one.
            plan.abandoned, self._abandoned = self._abandoned, []
        return plan

    def retire(self, finished: Iterable[Sequence]) -> list[tuple[int, int]]:
        """Remove sequences, free their pages, close the holes.

        Returns:
            Slot moves (source, destination) for the runner, to apply in order.
        """
        moves = []
        for sequence in sorted(finished, key=lambda sequence: -sequence.slot):
            self.allocator.free(sequence.pages)
            hole, last = sequence.slot, self.running.pop()
            if last is not sequence:
                moves.append((last.slot, hole))
                last.slot = hole
                self.running[hole] = last
        return moves

    def _sequence_pages(self, max_new_tokens: int) -> int:
        """Pages of a sequence's whole limit: the last token drawn is never stored."""
        return self.allocator.pages_for(self.suffix_len + max_new_tokens - 1)

    def _fork_all(self, item: Item, plan: StepPlan) -> bool:
        """Fork as many samples as fit; True once all have."""
        while item.num_forked < item.num_samples:
            if len(self.running) == self.num_slots or not self._fits(item):
                return False
            if not item.prefilled:
                item.suffix_pages = self.allocator.allocate(
                    self.allocator.pages_for(self.suffix_len)
                )
                plan.prefills.append(Prefill(item=item, pages=tuple(item.suffix_pages)))
            plan.forks.append(self._fork(item))
        return True

    def _fits(self, item: Item) -> bool:
        """Whether the pages for the next fork are there, the prefill's included."""
        if not item.prefilled:
            needed = self.pages_needed(item.sampling.max_new_tokens, item.num_samples)
        else:
            needed = self._sequence_pages(item.sampling.max_new_tokens)
            if item.num_forked == item.num_samples - 1:
                needed -= len(item.suffix_pages)
        return needed <= self.allocator.num_free

    def _fork(self, item: Item) -> Fork:
        last = item.num_forked == item.num_samples - 1
        whole = self._sequence_pages(item.sampling.max_new_tokens)
        if last:
            pages = item.suffix_pages + self.allocator.allocate(whole - len(item.suffix_pages))
            copies: list[tuple[int, int]] = []
            item.suffix_pages = []
        else:
            pages = self.allocator.allocate(whole)
            copies = list(zip(item.suffix_pages, pages, strict=False))
        sequence = Sequence(item=item, sample=item.num_forked, pages=pages, slot=len(self.running))
        item.num_forked += 1
        self.running.append(sequence)
        return Fork(sequence=sequence, copies=copies, last=last)
