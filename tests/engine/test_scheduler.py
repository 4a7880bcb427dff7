"""Allocator and scheduler without a model, driven at random: pages, slots, order, progress."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.request import PRIORITIES
from gloss_engine.sampling import SamplingParams
from gloss_engine.scheduler import Scheduler
from gloss_engine.sequence import Item
from gloss_engine.step_shape import StepSizes
from support.slot_rows import SlotRows


def _item(
    name: str, num_samples: int = 1, max_new_tokens: int = 4, priority: str = "interactive"
) -> Item:
    return Item(
        request_id=name,
        index=0,
        item_key=0,
        seed=0,
        sampling=SamplingParams(max_new_tokens=max_new_tokens),
        num_samples=num_samples,
        activation=torch.ones(1),
        priority=priority,
    )


class SchedulerMachine(RuleBasedStateMachine):
    """Arrivals, steps, departures in any order and cancels on tiny pools."""

    @initialize(
        page_size=st.integers(1, 5),
        suffix_len=st.integers(2, 7),
        num_slots=st.integers(1, 6),
        num_pages=st.integers(2, 24),
        max_prefill=st.integers(0, 20),
        max_step=st.sampled_from([None, 1, 9]),
        sizes=st.sampled_from(["exact", "listed", "one"]),
    )
    def start(
        self,
        page_size: int,
        suffix_len: int,
        num_slots: int,
        num_pages: int,
        max_prefill: int,
        max_step: int | None,
        sizes: str,
    ) -> None:
        self.allocator = BlockAllocator(num_pages, page_size)
        self.sizes = StepSizes.exact()
        if sizes != "exact":
            self.sizes = StepSizes.listed(num_slots, 4, 99, one=sizes == "one")
        self.scheduler = Scheduler(
            self.allocator, num_slots, suffix_len, max_prefill, max_step, self.sizes
        )
        self.rows = SlotRows(num_slots, self.allocator.pages_for(suffix_len - 1), self.sizes)
        self.num_added = 0

    @rule(
        num_samples=st.integers(1, 5),
        max_new_tokens=st.integers(1, 12),
        request=st.integers(0, 3),
        priority=st.sampled_from(PRIORITIES),
    )
    def arrive(self, num_samples: int, max_new_tokens: int, request: int, priority: str) -> None:
        """An item that fits the pool, as validation sees to."""
        needed = self.scheduler.pages_needed(max_new_tokens, num_samples)
        if needed > self.allocator.capacity:
            return
        item = _item(f"{priority}{request}", num_samples, max_new_tokens, priority)
        item.index = self.num_added
        self.num_added += 1
        self.scheduler.add(item)

    @rule()
    def step(self) -> None:
        had_work = self.scheduler.has_work
        waiting, running = len(self.scheduler.waiting), len(self.scheduler.running)
        order = list(self.scheduler.waiting)
        plan = self.scheduler.schedule()
        assert [p.item for p in plan.prefills] == order[: len(plan.prefills)], "not their turn"
        assert plan.has_work or not had_work or running, "work, and nothing of it runs"
        if not plan.has_work:
            return
        self.rows.apply(plan)
        assert len(plan.prefills) <= self.scheduler.max_prefill_items
        assert len(plan.prefills) == self.sizes.startable(len(plan.prefills))
        assert len(self.scheduler.waiting) == waiting - len(plan.prefills)
        for sequence in plan.sequences:
            sampling = sequence.item.sampling
            assert 1 <= sequence.num_launched <= sampling.max_new_tokens
            whole = self.scheduler.suffix_len + sampling.max_new_tokens - 1
            assert len(sequence.pages) == self.allocator.pages_for(whole)

    @precondition(lambda self: self.scheduler.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Some sequences end at once, in any order."""
        running = list(self.scheduler.running.values())
        chosen = data.draw(st.lists(st.sampled_from(running), min_size=1, unique_by=id))
        self.scheduler.retire(chosen)
        self.scheduler.retire(chosen[:1])

    @rule(request=st.integers(0, 3), priority=st.sampled_from(PRIORITIES))
    def cancel(self, request: int, priority: str) -> None:
        name, scheduler = f"{priority}{request}", self.scheduler
        queued = {i for i in (*scheduler.waiting, *scheduler.forking) if i.request_id == name}
        running = {s for s in scheduler.running.values() if s.item.request_id == name}
        dropped, leaving = scheduler.cancel({name})
        assert set(dropped) == queued and set(leaving) == running
        left = (*scheduler.waiting, *scheduler.forking)
        assert not any(item.request_id == name for item in left)

    @invariant()
    def every_slot_and_page_has_one_owner(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        assert all(slot == s.slot for slot, s in scheduler.running.items())
        slots = [*scheduler.running, *scheduler._free_slots]
        assert sorted(slots) == list(range(scheduler.num_slots))
        owned = [page for s in scheduler.running.values() for page in s.pages]
        owned += [page for item in scheduler.forking for page in item.suffix_pages]
        assert not any(item.suffix_pages for item in scheduler.waiting)
        assert len(owned) == len(set(owned)) == self.allocator.num_used
        assert 0 not in owned and all(page < self.allocator.num_pages for page in owned)
        assert self.allocator.num_free + len(owned) == self.allocator.capacity

    def teardown(self) -> None:
        """Everything ends, each item prefilled once, those of a request in order of arrival."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(1000):
            if not self.scheduler.has_work:
                break
            self.step()
            self.scheduler.retire(list(self.scheduler.running.values())[-1:])
            self.every_slot_and_page_has_one_owner()
        assert not self.scheduler.has_work and self.allocator.num_used == 0
        order = [item.index for item in self.rows.prefilled]
        assert len(order) == len(set(order)), "an item ran twice"
        for name in {item.request_id for item in self.rows.prefilled}:
            own = [item.index for item in self.rows.prefilled if item.request_id == name]
            assert own == sorted(own), "items of one request overtook each other"
        forked = [(item.index, sample) for item, sample in self.rows.started]
        assert len(set(forked)) == len(forked)
        several = [pair for pair, (item, _) in zip(forked, self.rows.started, strict=True)
                   if item.num_samples > 1]  # fmt: skip
        begun = [index for index in order if index in {index for index, _ in several}]
        assert several == sorted(several, key=lambda pair: (begun.index(pair[0]), pair[1])), (
            "samples overtook each other"
        )


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True
)


def _scheduler(
    num_slots: int = 4,
    num_pages: int = 40,
    suffix_len: int = 3,
    max_step_tokens: int | None = None,
    sizes: StepSizes | None = None,
) -> Scheduler:
    allocator = BlockAllocator(num_pages, 2)
    return Scheduler(allocator, num_slots, suffix_len, 100, max_step_tokens, sizes)


def test_the_last_sample_takes_the_suffix_over() -> None:
    scheduler = _scheduler(num_pages=8, suffix_len=4)
    # 3 pages a sequence, 2 of them the suffix: two samples and the kept suffix need 3 + 2 + 1.
    scheduler.add(_item("a", num_samples=2, max_new_tokens=2))
    assert not scheduler.schedule().starts, "its suffix is not there yet"
    assert len(scheduler.schedule().starts) == 2 and scheduler.allocator.num_used == 6


def test_a_single_sample_starts_with_its_prefill() -> None:
    scheduler = _scheduler()
    scheduler.add(_item("a"))
    plan = scheduler.schedule()
    assert len(plan.prefills) == len(plan.starts) == len(plan.sequences) == 1
    assert not plan.starts[0].copies


def test_what_is_promised_to_samples_is_not_given_away() -> None:
    """An item behind one with many samples waits until all of those have slots."""
    scheduler = _scheduler(num_slots=4)
    scheduler.add(_item("many", num_samples=6, max_new_tokens=9))
    scheduler.add(_item("next"))
    assert [p.item.request_id for p in scheduler.schedule().prefills] == ["many"]
    plan = scheduler.schedule()
    assert len(plan.starts) == 4 and not plan.prefills
    scheduler.retire([plan.sequences[1]])
    plan = scheduler.schedule()
    assert [s.sequence.sample for s in plan.starts] == [4] and not plan.prefills
    scheduler.retire(plan.sequences[:3])
    plan = scheduler.schedule()
    assert [s.sequence.item.request_id for s in plan.starts] == ["many", "next"]


def test_a_sequence_at_its_limit_leaves_before_anybody_reads_it() -> None:
    scheduler = _scheduler(num_slots=1)
    scheduler.add(_item("a", max_new_tokens=2))
    scheduler.add(_item("b"))
    steps = [[s.item.request_id for s in scheduler.schedule().sequences] for _ in range(3)]
    assert steps == [["a"], ["a"], ["b"]]


def test_rows_are_closed_up_where_a_step_becomes_smaller() -> None:
    """Sizes 1, 2, 4, 8: five of seven stay where they are, three go into four rows."""
    scheduler = _scheduler(num_slots=8, num_pages=99, sizes=StepSizes.listed(8, 8, 9))
    for number in range(7):
        scheduler.add(_item(f"r{number}", max_new_tokens=9))
    while scheduler.waiting:
        plan = scheduler.schedule()
    slots = {sequence.slot: sequence for sequence in plan.sequences}
    scheduler.retire([slots[0], slots[1]])
    assert not scheduler.schedule().moves
    scheduler.retire([slots[2], slots[5]])
    plan = scheduler.schedule()
    assert plan.moves == [(6, 0), (4, 1)]
    assert sorted(scheduler.running) == [0, 1, 3] and plan.num_rows == 4


def test_prefills_beside_running_rows_are_bounded() -> None:
    """Two rows for each of 8 slots: from none, all; beside 6 rows, (16 - 6) // 4 of them."""
    scheduler = _scheduler(num_slots=8, num_pages=99, suffix_len=5, max_step_tokens=16)
    for number in range(6):
        scheduler.add(_item(f"r{number}"))
    assert len(scheduler.schedule().prefills) == 6
    for number in range(6, 12):
        scheduler.add(_item(f"r{number}"))
    assert len(scheduler.schedule().prefills) == 2
    assert len(_bounded_to(1).schedule().prefills) == 1, "one always goes"


def _bounded_to(max_step_tokens: int) -> Scheduler:
    scheduler = _scheduler(max_step_tokens=max_step_tokens)
    scheduler.add(_item("a"))
    scheduler.schedule()
    for name in "bc":
        scheduler.add(_item(name))
    return scheduler


@pytest.mark.parametrize("num_pages", [0, 1])
def test_a_pool_needs_a_page_to_give(num_pages: int) -> None:
    with pytest.raises(ValueError, match="expected at least 2 pages"):
        BlockAllocator(num_pages, 16)


def test_pages_are_freed_once() -> None:
    allocator = BlockAllocator(4, 2)
    pages = allocator.allocate(2)
    allocator.free(pages)
    with pytest.raises(AssertionError, match="is not held"):
        allocator.free(pages)
    with pytest.raises(AssertionError, match="4 pages wanted, 3 free"):
        allocator.allocate(4)
    assert [allocator.pages_for(n) for n in (0, 1, 2, 3)] == [0, 1, 1, 2]


def test_the_lowest_free_page_comes_first() -> None:
    """Else pages stay scattered over all that were ever used, and every step copies them."""
    allocator, fresh = BlockAllocator(9, 4), BlockAllocator(9, 4)
    held = allocator.allocate(8)
    allocator.free(held[5:1:-1])
    assert allocator.allocate(3) == [3, 4, 5]
    allocator.free([7, 1, 8, 2, 5, 3, 4])
    assert allocator.allocate(8) == fresh.allocate(8)
