"""The device's side of a plan, without a model: where rows stand, and what is in which page."""

from __future__ import annotations

from gloss_engine.scheduler import StepPlan
from gloss_engine.sequence import Item, Sequence
from gloss_engine.step_shape import StepSizes


class SlotRows:
    """Applies plans in their order and checks that each can be.

    Attributes:
        rows: the sequence in every slot that is not idle.
        content: the item whose suffix stands in a page, None where nothing does.
        started: (item, sample) in order.
        prefilled: items, in order.
    """

    def __init__(self, num_slots: int, suffix_pages: int, sizes: StepSizes) -> None:
        self.num_slots, self.suffix_pages, self.sizes = num_slots, suffix_pages, sizes
        self.rows: dict[int, Sequence] = {}
        self.content: dict[int, Item | None] = {}
        self.started: list[tuple[Item, int]] = []
        self.prefilled: list[Item] = []

    def apply(self, plan: StepPlan) -> None:
        """Do what a plan with work says."""
        assert plan.has_work
        for slot in plan.idle:
            del self.rows[slot]
        before = set(self.rows)
        for source, hole in plan.moves:
            assert source in before and hole not in before, "a row is moved once, into a hole"
            self.rows[hole] = self.rows.pop(source)
        assert len(plan.fresh_pages) == len(set(plan.fresh_pages)) and 0 not in plan.fresh_pages
        self.content |= dict.fromkeys(plan.fresh_pages)
        for start in plan.starts:
            sequence, item = start.sequence, start.sequence.item
            assert sequence.slot not in self.rows, "two sequences in a slot"
            self.rows[sequence.slot] = sequence
            self.started.append((item, sequence.sample))
            for source, page in start.copies:
                assert self.content[source] is item and self.content[page] is None
                self.content[page] = item
        for prefill in plan.prefills:
            assert len(prefill.pages) == self.suffix_pages
            self.prefilled.append(prefill.item)
            for page in prefill.pages:
                assert self.content[page] is None
                self.content[page] = prefill.item
        self._check(plan)

    def _check(self, plan: StepPlan) -> None:
        assert {sequence.slot: sequence for sequence in plan.sequences} == self.rows
        assert plan.num_rows == 1 + max(self.rows, default=-1) <= self.num_slots
        least = self.sizes.fit(len(self.rows))
        assert self.sizes.fit(plan.num_rows) == least, "rows are not closed up"
        held = [page for sequence in self.rows.values() for page in sequence.pages]
        assert len(held) == len(set(held)), "a page of two sequences"
        for sequence in self.rows.values():
            for page in sequence.pages[: self.suffix_pages]:
                assert self.content[page] is sequence.item, "somebody else's suffix"
