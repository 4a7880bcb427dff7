"""Activations that wait for a slot, and who of them begins next. Host state: no slots, no pages.

Two lines, one a priority, take turns (`turns.py`), counted in sequences: an item of many samples
counts as often. Within a line an item is due when it would begin if its request got every
SPREAD-th start from the moment it came,

    due = starts so far                                          first of its request that waits
    due = max(starts so far, due before + SPREAD * samples)      any other

and who is due first begins first, of equals who came first: a virtual clock (Zhang, 1990) that
counts starts. So one activation does not wait behind the thousand of another call. And an item is
overtaken only by what comes before as many starts have been made as it is due at: a single one by
nobody, the last of a call of n by nothing that comes later than SPREAD * n starts after it.
The order depends on what came when, never on time.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Set
from dataclasses import dataclass, field, replace

from gloss_engine.sequence import Item
from gloss_engine.turns import Turns

SPREAD = 2
"""A larger one would be fairer where many large calls wait, and would let more that comes later
overtake a large call than an estimate of its wait can know of when it is let in."""


@dataclass(kw_only=True)
class _Request:
    """A request that waits: how many items of it do, and when the next that comes is due."""

    num_items: int = 0
    next_due: int = 0


@dataclass(kw_only=True)
class _Line:
    """Items of one priority.

    Attributes:
        entries: (due, number of arrival, item), ascending.
        num_started: sequences that began.
        requests: those that have items here.
    """

    entries: list[tuple[int, int, Item]] = field(default_factory=list)
    num_started: int = 0
    requests: dict[str, _Request] = field(default_factory=dict)

    def add(self, item: Item, number: int) -> None:
        request = self.requests.setdefault(item.request_id, _Request())
        due = max(self.num_started, request.next_due)
        request.num_items += 1
        request.next_due = due + SPREAD * item.num_samples
        insort(self.entries, (due, number, item))

    def samples_at(self, index: int) -> int:
        """Sequences of an item; 0 where there is none."""
        return self.entries[index][2].num_samples if index < len(self.entries) else 0

    def take(self, count: int) -> None:
        """The first items begin."""
        for _, _, item in self.entries[:count]:
            self.num_started += item.num_samples
            request = self.requests[item.request_id]
            request.num_items -= 1
            if request.num_items == 0:
                del self.requests[item.request_id]
        del self.entries[:count]

    def drop(self, request_ids: Set[str]) -> list[Item]:
        gone = self.requests.keys() & request_ids
        if not gone:
            return []
        for request_id in gone:
            del self.requests[request_id]
        dropped = [item for _, _, item in self.entries if item.request_id in gone]
        self.entries = [entry for entry in self.entries if entry[2].request_id not in gone]
        return dropped


class WaitingItems:
    """Items in the order in which they begin, if nothing else comes.

    Args:
        batch_share: share of the starts that batch items get while interactive ones wait too.
    """

    def __init__(self, batch_share: float) -> None:
        self._interactive, self._batch = _Line(), _Line()
        self._turns = Turns(batch_share=batch_share)
        self._num_added = 0

    def __len__(self) -> int:
        return len(self._interactive.entries) + len(self._batch.entries)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.first(len(self)))

    @property
    def num_batch(self) -> int:
        """Items of priority batch."""
        return len(self._batch.entries)

    def add(self, item: Item) -> None:
        """Queue an item."""
        line = self._batch if item.priority == "batch" else self._interactive
        line.add(item, self._num_added)
        self._num_added += 1

    def first(self, count: int) -> list[Item]:
        """The next items, `count` where there are as many."""
        return self._next(count)[0]

    def take(self, count: int) -> list[Item]:
        """Let the next items begin."""
        items, num_batch, self._turns = self._next(count)
        self._interactive.take(len(items) - num_batch)
        self._batch.take(num_batch)
        return items

    def drop(self, request_ids: Set[str]) -> list[Item]:
        """Take requests out; their items."""
        return self._interactive.drop(request_ids) + self._batch.drop(request_ids)

    def _next(self, count: int) -> tuple[list[Item], int, Turns]:
        """The next items, how many of them are batch, and the turns once they have begun."""
        turns, items = replace(self._turns), list[Item]()
        num_interactive = num_batch = 0
        while len(items) < count:
            interactive = self._interactive.samples_at(num_interactive)
            batch = self._batch.samples_at(num_batch)
            if interactive == batch == 0:
                break
            if turns.is_batch(interactive, batch):
                items.append(self._batch.entries[num_batch][2])
                turns.batch_went(batch, interactive_waits=interactive > 0)
                num_batch += 1
            else:
                items.append(self._interactive.entries[num_interactive][2])
                turns.interactive_went(interactive, batch_waits=batch > 0)
                num_interactive += 1
        return items, num_batch, turns
