"""Allocator and scheduler without a model, driven at random: pages, slots, order, progress."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.sampling import SamplingParams
from gloss_engine.scheduler import Scheduler, StepPlan
from gloss_engine.sequence import Item, Sequence


def _item(name: str, num_samples: int = 1, max_new_tokens: int = 4) -> Item:
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    return Item(
        request_id=name, index=0, item_key=0, seed=0, sampling=sampling, num_samples=num_samples
    )


class SchedulerMachine(RuleBasedStateMachine):
    """Arrivals, steps, departures in any order and cancels on tiny pools."""

    @initialize(
        page_size=st.integers(1, 5),
        suffix_len=st.integers(1, 7),
        num_slots=st.integers(1, 4),
        num_pages=st.integers(2, 24),
        max_prefill=st.integers(0, 20),
    )
    def start(
        self, page_size: int, suffix_len: int, num_slots: int, num_pages: int, max_prefill: int
    ) -> None:
        self.allocator = BlockAllocator(num_pages, page_size)
        self.scheduler = Scheduler(self.allocator, num_slots, suffix_len, max_prefill)
        self.num_added = 0
        self.started: list[tuple[int, int]] = []
        self.slots: list[Sequence] = []
        self.forked: Counter[str] = Counter()
        self.prefilled: Counter[str] = Counter()

    @rule(
        num_samples=st.integers(1, 5),
        max_new_tokens=st.integers(1, 12),
        request=st.integers(0, 3),
    )
    def arrive(self, num_samples: int, max_new_tokens: int, request: int) -> None:
        """An item that fits the pool, as validation sees to."""
        needed = self.scheduler.pages_needed(max_new_tokens, num_samples)
        if needed > self.allocator.capacity:
            return
        item = _item(f"r{request}", num_samples, max_new_tokens)
        item.index = self.num_added
        self.num_added += 1
        self.scheduler.add(item)

    @rule()
    def step(self) -> None:
        before, waiting = list(self.slots), list(self.scheduler.waiting)
        plan = self.scheduler.schedule()
        assert plan.num_decode == len(before)
        assert plan.num_rows <= self.scheduler.num_slots
        assert not waiting or before or plan.forks, "nothing runs and nothing starts"
        self._check_prefills(plan)
        self._check_forks(plan)

    def _check_prefills(self, plan: StepPlan) -> None:
        starting = {id(fork.sequence.item) for fork in plan.forks}
        for prefill in plan.prefills:
            assert id(prefill.item) in starting
            assert len(prefill.pages) == self.allocator.pages_for(self.scheduler.suffix_len)
            self.prefilled[str(prefill.item.index)] += 1
        assert len(plan.prefills) <= self.scheduler.max_prefill_items

    def _check_forks(self, plan: StepPlan) -> None:
        held = {id(p.item): list(p.pages) for p in plan.prefills}
        for offset, fork in enumerate(plan.forks):
            sequence, item = fork.sequence, fork.sequence.item
            assert sequence.slot == plan.num_decode + offset
            assert fork.last == (sequence.sample == item.num_samples - 1)
            whole = self.scheduler.suffix_len + item.sampling.max_new_tokens - 1
            assert len(sequence.pages) == self.allocator.pages_for(whole)
            suffix = held.setdefault(id(item), getattr(self, "_kept", {}).get(id(item), []))
            count = self.allocator.pages_for(self.scheduler.suffix_len)
            assert len(suffix) == count
            if fork.last:
                assert not fork.copies and sequence.pages[:count] == suffix
            else:
                assert fork.copies == list(zip(suffix, sequence.pages[:count], strict=True))
            self.started.append((item.index, sequence.sample))
            self.forked[str(item.index)] += 1
            self.slots.append(sequence)
        self._kept = {id(i): list(i.suffix_pages) for i in self.scheduler.waiting}

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Some sequences end at once, in any order."""
        chosen = data.draw(st.lists(st.sampled_from(self.slots), min_size=1, unique_by=id))
        self._retire(chosen)

    def _retire(self, chosen: list[Sequence]) -> None:
        """Apply the moves to our own picture of the slots, as the runner does to its rows."""
        moves = self.scheduler.retire(chosen)
        for source, destination in moves:
            self.slots[destination] = self.slots[source]
        del self.slots[len(self.slots) - len(chosen) :]

    @rule(request=st.integers(0, 3))
    def cancel(self, request: int) -> None:
        name = f"r{request}"
        waiting = [item for item in self.scheduler.waiting if item.request_id == name]
        assert self.scheduler.cancel(name) == waiting
        leaving = [s for s in self.scheduler.running if s.item.request_id == name]
        assert all(sequence.cancelled for sequence in leaving)
        self._retire(leaving)

    @invariant()
    def slots_are_dense_and_known(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        running = self.scheduler.running
        assert [sequence.slot for sequence in running] == list(range(len(running)))
        assert [id(s) for s in running] == [id(s) for s in self.slots]

    @invariant()
    def every_page_has_one_owner(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        owned = [page for s in self.scheduler.running for page in s.pages]
        owned += [page for item in self.scheduler.waiting for page in item.suffix_pages]
        assert len(owned) == len(set(owned)) == self.allocator.num_used
        assert 0 not in owned and all(page < self.allocator.num_pages for page in owned)
        assert self.allocator.num_free + len(owned) == self.allocator.capacity

    @invariant()
    def only_the_first_waiting_item_is_partly_forked(self) -> None:
        if hasattr(self, "scheduler"):
            assert not any(i.prefilled for i in list(self.scheduler.waiting)[1:])

    def teardown(self) -> None:
        """Everything ends, in order of arrival, each item prefilled once."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(1000):
            if not self.scheduler.has_work:
                break
            self.step()
            self._retire(self.slots[-1:])
            self.every_page_has_one_owner()
            self.slots_are_dense_and_known()
        assert not self.scheduler.has_work and self.allocator.num_used == 0
        assert self.started == sorted(self.started), "items or samples overtook each other"
        assert len(set(self.started)) == len(self.started)
        assert all(count == 1 for count in self.prefilled.values())
        assert self.prefilled.keys() == self.forked.keys()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, derandomize=True
)


def _scheduler(num_slots: int = 4, num_pages: int = 20, suffix_len: int = 3) -> Scheduler:
    return Scheduler(BlockAllocator(num_pages, 2), num_slots, suffix_len, 100)


def test_a_cancelled_items_kept_pages_are_named_once() -> None:
    """Between two forks: its logits and pages are to be cleaned before anybody gets them."""
    scheduler = _scheduler(num_slots=1)
    scheduler.add(_item("a", num_samples=3))
    scheduler.schedule()
    kept = tuple(scheduler.waiting[0].suffix_pages)
    dropped = scheduler.cancel("a")
    scheduler.retire(list(scheduler.running))
    assert not scheduler.schedule().abandoned, "nobody runs a plan without rows"
    scheduler.add(_item("b"))
    plan = scheduler.schedule()
    assert [(p.item, p.pages) for p in plan.abandoned] == [(dropped[0], kept)] and kept
    assert plan.forks[0].sequence.item.request_id == "b"
    assert not scheduler.schedule().abandoned


def test_the_last_sample_takes_the_suffix_over() -> None:
    scheduler = _scheduler(num_pages=8, suffix_len=4)
    # 3 pages a sequence, 2 of them the suffix: two samples and the kept suffix need 3 + 2 + 1.
    scheduler.add(_item("a", num_samples=2, max_new_tokens=2))
    plan = scheduler.schedule()
    assert len(plan.forks) == 2 and scheduler.allocator.num_used == 6


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
