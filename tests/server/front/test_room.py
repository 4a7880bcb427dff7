"""Rooms: bounds hold for every thing at once, and what was taken comes back exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_server.front.call_error import CallError
from gloss_server.front.room import Room


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 6), st.booleans()),
        max_size=40,
    )
)
def test_bounds_hold_and_leases_empty_it(calls: list[tuple[int, int, int, bool]]) -> None:
    room, held = Room({"texts": 5, "tokens": 10}), []
    for texts, tokens, back, leave in calls:
        before = list(room.taken)
        try:
            room.check(texts, tokens, field="input", retry_after=1.0)
            held.append(room.take(texts, tokens))
            assert room.taken == [before[0] + texts, before[1] + tokens]
        except CallError as error:
            assert error.reason == ("BATCH_TOO_LARGE" if texts > 5 or tokens > 10 else "QUEUE_FULL")
            assert before[0] + texts > 5 or before[1] + tokens > 10
            assert room.taken == before
        assert room.taken[0] <= 5 and room.taken[1] <= 10
        if leave and held:
            lease = held.pop(0)
            assert lease.is_empty == (lease.left == (0, 0))
            lease.give_back(min(back, lease.left[0]), 0)
            lease.close()
            lease.close()
            assert lease.is_empty
    for lease in held:
        lease.close()
    assert room.taken == [0, 0]


def test_more_than_was_taken_does_not_come_back() -> None:
    lease = Room({"texts": 5}).take(2)
    lease.give_back(1)
    with pytest.raises(AssertionError):
        lease.give_back(2)


def test_refusals_name_the_thing_and_the_field() -> None:
    room = Room({"watches": 2})
    with pytest.raises(CallError) as caught:
        room.check(3, field="prompt", retry_after=1.0)
    assert (caught.value.reason, caught.value.field) == ("BATCH_TOO_LARGE", "prompt")
    assert str(caught.value).startswith("prompt: ") and caught.value.retry_after is None
    room.take(2)
    with pytest.raises(CallError, match="2 watches are in flight") as caught:
        room.check(1, field="prompt", retry_after=1.5)
    assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 1.5)
