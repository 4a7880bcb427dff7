"""Who begins next: shares of priorities, fairness between calls, and that nothing is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.request import PRIORITIES
from gloss_engine.sampling import SamplingParams
from gloss_engine.sequence import Item
from gloss_engine.turns import Turns
from gloss_engine.waiting import SPREAD, WaitingItems

quick = settings(max_examples=60, deadline=None, derandomize=True)


def _item(request: str, index: int, priority: str = "interactive", samples: int = 1) -> Item:
    return Item(
        request_id=request,
        index=index,
        item_key=0,
        seed=0,
        sampling=SamplingParams(),
        num_samples=samples,
        activation=torch.ones(1),
        priority=priority,
    )


def _call(line: WaitingItems, name: str, count: int, priority: str = "interactive") -> None:
    for index in range(count):
        line.add(_item(name, index, priority))


def _names(items: list[Item]) -> str:
    return "".join(item.request_id for item in items)


@given(
    share=st.sampled_from([0.05, 0.125, 0.5, 0.9]),
    interactive=st.lists(st.integers(1, 6), max_size=40),
    batch=st.lists(st.integers(1, 6), max_size=40),
)
@quick
def test_batch_gets_its_share_while_both_wait(
    share: float, interactive: list[int], batch: list[int]
) -> None:
    """In sequences, never more than what it has saved up, less by no more than its next item."""
    line = WaitingItems(share)
    for index, samples in enumerate(interactive):
        line.add(_item("i", index, "interactive", samples))
    for index, samples in enumerate(batch):
        line.add(_item("b", index, "batch", samples))
    began = {"interactive": 0, "batch": 0}
    left = {"interactive": len(interactive), "batch": len(batch)}
    while left["interactive"] and left["batch"]:
        due = began["interactive"] * share / (1 - share)
        assert began["batch"] <= due + 1e-6
        assert due < began["batch"] + max(batch) + 6 * share / (1 - share) + 1e-6
        (item,) = line.take(1)
        began[item.priority] += item.num_samples
        left[item.priority] -= 1
    rest = line.take(len(line))
    assert len({item.priority for item in rest}) <= 1 and len(line) == 0


def test_who_did_not_wait_is_owed_nothing() -> None:
    line = WaitingItems(0.25)
    _call(line, "i", 9)
    line.take(9)
    _call(line, "j", 9)
    _call(line, "b", 2, "batch")
    assert _names(line.take(20)) == "jjjbjjjbjjj"


def test_batch_alone_costs_it_nothing() -> None:
    line = WaitingItems(0.25)
    _call(line, "b", 50, "batch")
    line.take(48)
    _call(line, "i", 7)
    assert _names(line.take(20)) == "iiibiiibi"


def test_one_activation_does_not_wait_behind_a_thousand() -> None:
    line = WaitingItems(0.125)
    _call(line, "A", 1000)
    line.take(100)
    _call(line, "b", 1)
    assert _names(line.take(2)) == "bA"


def test_a_large_call_goes_on_whatever_comes_later() -> None:
    """A flood of single calls, two a start: only those of the first SPREAD * 100 overtake it."""
    line = WaitingItems(0.125)
    _call(line, "A", 100)
    began = ""
    for number in range(600):
        line.add(_item(f"b{number}", 0))
        line.add(_item(f"c{number}", 0))
        began += line.take(1)[0].request_id[0]
    assert began[: 2 * SPREAD * 100 + 100].count("A") == 100
    assert began[:100].count("A") == 20, "it goes on from the first"


@st.composite
def _histories(draw: st.DrawFn) -> list[tuple[str, int, str, int]]:
    """Events: ("add", request, priority, samples), ("take", count, ..), ("drop", request, ..)."""
    kinds = st.sampled_from(["add", "add", "add", "take", "drop"])
    return draw(st.lists(
        st.tuples(kinds, st.integers(0, 5), st.sampled_from(PRIORITIES), st.integers(1, 4)),
        max_size=60,
    ))  # fmt: skip


@given(history=_histories())
@quick
def test_nothing_is_lost_and_nobody_overtakes_what_is_due(
    history: list[tuple[str, int, str, int]],
) -> None:
    """Within a priority; a request's own items keep their order."""
    line = WaitingItems(0.125)
    waiting: dict[Item, int] = {}
    last_due: dict[str, int] = {}
    clock = dict.fromkeys(PRIORITIES, 0)
    for number, (kind, value, priority, samples) in enumerate(history):
        name = f"{priority}{value}"
        if kind == "add":
            item = _item(name, number, priority, samples)
            own = [waiting for waiting in waiting if waiting.request_id == name]
            due = max(clock[priority], last_due[name] if own else 0)
            waiting[item], last_due[name] = due, due + SPREAD * samples
            line.add(item)
        elif kind == "drop":
            dropped = line.drop({name})
            assert dropped == [item for item in waiting if item.request_id == name]
            waiting = {item: due for item, due in waiting.items() if item not in dropped}
        else:
            expected = line.first(value)
            assert len(expected) == min(value, len(waiting))
            for item in line.take(value):
                assert item is expected.pop(0)
                due = waiting.pop(item)
                others = [d for other, d in waiting.items() if other.priority == item.priority]
                assert due <= min(others, default=due), "somebody was due before"
                clock[item.priority] += item.num_samples
        assert len(line) == len(waiting) and set(line) == set(waiting)
        assert line.num_batch == sum(item.priority == "batch" for item in waiting)


@given(
    count=st.integers(1, 20),
    before=st.integers(0, 20),
    later=st.lists(st.integers(0, 3), max_size=80),
)
@quick
def test_what_overtakes_a_call_is_bounded(count: int, before: int, later: list[int]) -> None:
    """The last of n begins behind what was there, its own, and what comes within SPREAD * n."""
    line = WaitingItems(0.125)
    _call(line, "x", before)
    _call(line, "mine", count)
    num_began, num_late = 0, 0
    arrivals = [*later, *[0] * 200]
    while any(item.request_id == "mine" for item in line):
        num = arrivals.pop(0)
        if num_began < SPREAD * (count - 1):
            num_late += num
        _call(line, f"l{len(arrivals)}", num)
        line.take(1)
        num_began += 1
    assert num_began <= before + count + num_late


def test_turns() -> None:
    turns = Turns(batch_share=0.5)
    assert not turns.is_batch(3, 0) and turns.is_batch(0, 1) and not turns.is_batch(1, 1)
    turns.interactive_went(2, batch_waits=True)
    assert turns.is_batch(1, 2) and not turns.is_batch(1, 3)
    turns.batch_went(2, interactive_waits=True)
    assert turns.credit == 0


@pytest.mark.parametrize("share", [0, 1, -0.1, True, "x", float("nan")])
def test_a_share_is_between_none_and_all(share: object) -> None:
    with pytest.raises(ConfigError, match="batch_share: got .*, expected more than 0, less than 1"):
        EngineConfig(batch_share=share)  # type: ignore[arg-type]
