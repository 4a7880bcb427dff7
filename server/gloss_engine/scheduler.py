"""Which sequences run in the next step: slots, pages, and who waits. Host state, no model.

A sequence keeps its slot while it runs, and who starts takes the lowest free one; rows are closed
up only where that makes the next step smaller. Pages for a sequence's whole limit are reserved when
it starts, so nothing is ever preempted. Which items start next is said by `waiting.py`; no other
starts before them because it needs less.

An item's suffix is prefilled up to its last token; that token is the first that its sequence
decodes, in the same step. The samples of an item share one prefill: they start a step later, each
with a copy of the prefilled pages, which the last one takes.

A sequence leaves when the host has read that it ended, or when it has been launched as often as it
may draw tokens: then nothing needs to be read for its slot and pages to be free.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.sequence import Item, Sequence
from gloss_engine.step_shape import StepSizes
from gloss_engine.waiting import WaitingItems


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """An item whose suffix is computed in this step, and the pages that take its keys."""

    item: Item
    pages: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Start:
    """A sequence that starts in this step, and the pages to copy, (source, destination)."""

    sequence: Sequence
    copies: tuple[tuple[int, int], ...] = ()


@dataclass(kw_only=True)
class StepPlan:
    """One step's work, to be done in this order.

    Attributes:
        idle: slots that nobody holds any more; before anything else.
        moves: rows to copy, (source, destination); a row is one or the other, and sources become
            idle.
        fresh_pages: pages that change hands.
        starts: sequences that start.
        prefills: suffixes computed.
        sequences: all that draw a token, those that start included.
        num_rows: the highest slot among them, and one.
    """

    idle: list[int] = field(default_factory=list)
    moves: list[tuple[int, int]] = field(default_factory=list)
    fresh_pages: list[int] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    prefills: list[Prefill] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    num_rows: int = 0

    @property
    def has_work(self) -> bool:
        """Whether there is anything to run."""
        return bool(self.sequences or self.prefills)


class Scheduler:
    """Admits items, forks their samples and keeps slots and pages.

    Args:
        allocator: the pages.
        num_slots: most sequences that run at once.
        suffix_len: prompt tokens after the shared prefix, at least 2.
        max_prefill_tokens: most suffix tokens prefilled in one step (one item always goes).
        max_step_tokens: the same, decode rows included, while sequences run; None: no bound.
        sizes: what steps may be like.
        batch_share: share of the starts that batch items get while interactive ones wait too.
    """

    def __init__(
        self,
        allocator: BlockAllocator,
        num_slots: int,
        suffix_len: int,
        max_prefill_tokens: int,
        max_step_tokens: int | None = None,
        sizes: StepSizes | None = None,
        batch_share: float = 0.125,
    ) -> None:
        assert num_slots >= 1 and suffix_len >= 2
        self.allocator, self.num_slots, self.suffix_len = allocator, num_slots, suffix_len
        self.max_prefill_items = max(1, max_prefill_tokens // (suffix_len - 1))
        self.max_step_tokens, self.sizes = max_step_tokens, sizes or StepSizes.exact()
        self.waiting = WaitingItems(batch_share)
        self.forking: deque[Item] = deque()
        self.running: dict[int, Sequence] = {}
        self._free_slots = list(range(num_slots))
        self._idle: list[int] = []

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.forking or self.running)

    @property
    def num_waiting(self) -> int:
        """Items that still have samples to start."""
        return len(self.waiting) + len(self.forking)

    @property
    def num_waiting_batch(self) -> int:
        """Of them, those of priority batch."""
        return self.waiting.num_batch + sum(item.priority == "batch" for item in self.forking)

    def pages_needed(self, max_new_tokens: int, num_samples: int) -> int:
        """Pages one item needs to make progress; more than the pool has can never run."""
        whole = self._sequence_pages(max_new_tokens)
        return whole if num_samples == 1 else whole + self._suffix_pages

    def add(self, item: Item) -> None:
        """Queue an item."""
        self.waiting.add(item)

    def cancel(self, request_ids: Set[str]) -> tuple[list[Item], list[Sequence]]:
        """Take requests out.

        Returns:
            Their items that still had samples to start, and their sequences that ran.
        """
        dropped = [item for item in self.forking if item.request_id in request_ids]
        for item in dropped:
            self.allocator.free(item.suffix_pages)
            item.suffix_pages = []
        dropped += self.waiting.drop(request_ids)
        self.forking = deque(item for item in self.forking if item.request_id not in request_ids)
        leaving = [s for s in self.running.values() if s.item.request_id in request_ids]
        self.retire(leaving)
        return dropped, leaving

    def drop(self, item: Item) -> list[Sequence]:
        """Let an item that has begun start no more samples; its sequences that run."""
        if item in self.forking:
            self.forking.remove(item)
            self.allocator.free(item.suffix_pages)
            item.suffix_pages = []
        return [sequence for sequence in self.running.values() if sequence.item is item]

    def schedule(self) -> StepPlan:
        """Admit what fits and say what the next step runs."""
        spent = [
            sequence
            for sequence in self.running.values()
            if sequence.num_launched == sequence.item.sampling.max_new_tokens
        ]
        self.retire(spent)
        plan = StepPlan()
        self._fork_prefilled(plan)
        for item in self.waiting.take(self.sizes.startable(self._num_admissible())):
            self._admit(item, plan)
        if plan.prefills or self.running:
            # No plan without work is run, and no slot or page changes hands before one that is.
            plan.idle, self._idle = self._idle, []
        self._close_up(plan)
        plan.sequences = list(self.running.values())
        plan.num_rows = 1 + max(self.running, default=-1)
        for sequence in plan.sequences:
            sequence.num_launched += 1
        return plan

    def retire(self, sequences: Iterable[Sequence]) -> None:
        """Free the slots and pages of sequences; of those that have left already, nothing."""
        for sequence in sequences:
            if self.running.get(sequence.slot) is sequence:
                del self.running[sequence.slot]
                self._release(sequence.slot)
                self.allocator.free(sequence.pages)

    @property
    def _suffix_pages(self) -> int:
        """Pages of a prefilled suffix, up to its last token."""
        return self.allocator.pages_for(self.suffix_len - 1)

    def _sequence_pages(self, max_new_tokens: int) -> int:
        """Pages of a sequence's whole limit: the last token drawn is never stored."""
        return self.allocator.pages_for(self.suffix_len + max_new_tokens - 1)

    def _fork_pages(self, item: Item) -> int:
        """Pages that the next sample of a prefilled item needs beside those the item holds."""
        whole = self._sequence_pages(item.sampling.max_new_tokens)
        return whole - len(item.suffix_pages) if _is_last_fork(item) else whole

    def _fork_prefilled(self, plan: StepPlan) -> None:
        """Start samples of the items prefilled in earlier steps, as many as fit."""
        while self.forking and self._free_slots:
            item = self.forking[0]
            if self._fork_pages(item) > self.allocator.num_free:
                return
            self._start(item, plan)
            if item.num_forked == item.num_samples:
                self.forking.popleft()

    def _num_admissible(self) -> int:
        """Waiting items that could be prefilled now.

        What samples of prefilled items will need is promised to them: they never wait for an item
        behind them.
        """
        pending = [(item, item.num_samples - item.num_forked) for item in self.forking]
        num_slots = len(self._free_slots) - sum(count for _, count in pending)
        num_pages = self.allocator.num_free - sum(
            count * self._sequence_pages(item.sampling.max_new_tokens) - len(item.suffix_pages)
            for item, count in pending
        )
        limit = self.max_prefill_items
        if self.running and self.max_step_tokens is not None:
            room = (self.max_step_tokens - len(self.running)) // (self.suffix_len - 1)
            limit = min(limit, max(1, room))
        admissible = 0
        for item in self.waiting.first(limit):
            samples, limit_tokens = item.num_samples, item.sampling.max_new_tokens
            if num_slots < 1 or num_pages < self.pages_needed(limit_tokens, samples):
                break
            admissible += 1
            num_slots -= samples
            num_pages -= samples * self._sequence_pages(limit_tokens)
        return admissible

    def _admit(self, item: Item, plan: StepPlan) -> None:
        """Prefill an item; a single sample of it starts at once."""
        item.suffix_pages = self._allocate(self._suffix_pages, plan)
        plan.prefills.append(Prefill(item=item, pages=tuple(item.suffix_pages)))
        if item.num_samples == 1:
            self._start(item, plan)
        else:
            self.forking.append(item)

    def _start(self, item: Item, plan: StepPlan) -> None:
        """Start an item's next sample; the caller has checked that a slot and pages are free."""
        copies: tuple[tuple[int, int], ...] = ()
        pages = self._allocate(self._fork_pages(item), plan)
        if _is_last_fork(item):
            pages, item.suffix_pages = item.suffix_pages + pages, []
        else:
            copies = tuple(zip(item.suffix_pages, pages, strict=False))
        slot = heapq.heappop(self._free_slots)
        sequence = Sequence(item=item, sample=item.num_forked, pages=pages, slot=slot)
        item.num_forked += 1
        self.running[slot] = sequence
        plan.starts.append(Start(sequence=sequence, copies=copies))

    def _allocate(self, count: int, plan: StepPlan) -> list[int]:
        pages = self.allocator.allocate(count)
        plan.fresh_pages += pages
        return pages

    def _release(self, slot: int) -> None:
        heapq.heappush(self._free_slots, slot)
        self._idle.append(slot)

    def _close_up(self, plan: StepPlan) -> None:
        """Move the highest rows into holes, where the step becomes smaller by that.

        Who starts has taken the lowest slots, so a row that moves was there before.
        """
        if not self.running:
            return
        target = self.sizes.fit(len(self.running))
        while self.sizes.fit(1 + max(self.running)) > target:
            source, hole = max(self.running), heapq.heappop(self._free_slots)
            sequence = self.running.pop(source)
            sequence.slot = hole
            self.running[hole] = sequence
            heapq.heappush(self._free_slots, source)
            plan.moves.append((source, hole))


def _is_last_fork(item: Item) -> bool:
    return item.num_forked == item.num_samples - 1
