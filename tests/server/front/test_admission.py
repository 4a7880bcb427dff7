"""Admission: bounds hold, estimates are of the right size, nothing is counted twice."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_server.front.admission import Admission, share
from gloss_server.front.call_error import CallError


def _expected(admission: Admission, num_explanations: int, max_new_tokens: int) -> float | None:
    return admission.expected_seconds(num_explanations, max_new_tokens, time.monotonic())


def _measured(num_slots: int = 4, step_seconds: float = 0.01, mean_tokens: int = 50) -> Admission:
    admission = Admission(100, 10_000)
    admission.pace.num_slots = num_slots
    for _ in range(3):
        admission.pace.step(num_slots, step_seconds, time.monotonic())
    admission.pace.explanation(mean_tokens)
    return admission


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30), st.booleans()), max_size=60))
def test_bounds_hold_and_releases_empty_it(calls: list[tuple[int, int, bool]]) -> None:
    admission = Admission(20, 300)
    held = []
    for num, tokens, leave in calls:
        try:
            admission.check(num, tokens, None)
            held.append((num, tokens, admission.admit(num, tokens)))
        except CallError as error:
            assert error.reason in ("QUEUE_FULL", "BATCH_TOO_LARGE")
            fits = admission.num_explanations + num <= 20
            fits = fits and admission.num_tokens + num * tokens <= 300
            assert not fits, "refused though there was room"
            assert (error.retry_after is None) == (num > 20 or num * tokens > 300)
        assert admission.num_explanations <= 20 and admission.num_tokens <= 300
        if leave and held:
            *_, lease = held.pop(0)
            lease.close()
    for num, tokens, lease in held:
        for _ in range(num):
            assert not lease.is_empty
            lease.give_back(1, tokens)
        assert lease.is_empty
        lease.close()
    assert admission.num_explanations == admission.num_tokens == 0


def test_nothing_is_refused_for_a_deadline_before_anything_was_measured() -> None:
    admission = Admission(100, 10_000)
    admission.check(1, 50, 1e-6)


def test_calls_that_have_begun_are_forgotten() -> None:
    """Batch calls that come one after the other to an idle engine wait for nobody, and nobody asks
    who is ahead of them: each was kept for as long as the server lived."""
    admission = Admission(max_explanations=100, max_tokens=10_000)
    for _ in range(50):
        admission.check(1, 10, 60.0, is_batch=True)
        admission.wait(1, is_batch=True).close()
    assert len(admission._batch._calls) <= 1


def test_an_empty_engine_takes_one_explanations_time() -> None:
    admission = _measured()
    assert _expected(admission, 1, 200) == pytest.approx(50 * 0.01)
    assert _expected(admission, 4, 10) == pytest.approx(10 * 0.01)
    admission.check(1, 200, 0.6)
    with pytest.raises(CallError) as caught:
        admission.check(1, 200, 0.4)
    assert caught.value.reason == "DEADLINE_UNREACHABLE"


def test_waiting_counts_in_waves_of_full_slots() -> None:
    admission = _measured()
    admission.admit(12, 50)
    # 12 + 1 - 4 more than there are slots: 9 / 4 waves of 50 tokens, then its own 50.
    expected = (9 / 4) * 50 * 0.01 + 50 * 0.01
    assert _expected(admission, 1, 50) == pytest.approx(expected)


def test_room_that_nobody_uses_is_not_waited_for() -> None:
    admission = _measured()
    admission.admit(12, 50)
    admission.num_idle = 9
    assert _expected(admission, 1, 50) == pytest.approx(50 * 0.01)


def test_steps_of_full_slots_decide_how_fast_a_queue_drains() -> None:
    """A step of few rows is faster than one of all; a queue only ever sees the latter."""
    admission = _measured(step_seconds=0.01)
    now = time.monotonic()
    for _ in range(500):
        admission.pace.step(4, 0.01, now)
        admission.pace.step(1, 0.004, now)
        admission.pace.step(0, 5.0, now)
    assert _expected(admission, 1, 50) == pytest.approx(50 * 0.004, rel=0.01)
    admission.admit(8, 50)
    assert _expected(admission, 1, 50) == pytest.approx((5 / 4 + 1) * 50 * 0.01, rel=0.01)


def test_another_engine_is_not_measured_yet() -> None:
    admission = _measured()
    admission.pace.forget()
    assert _expected(admission, 1, 50) is None


def test_when_to_come_back_follows_the_queue() -> None:
    admission = _measured()
    admission.admit(100, 10)
    with pytest.raises(CallError) as caught:
        admission.check(1, 10, None)
    # Half of 100 explanations, in waves of 4, each of 50 steps of 10 ms.
    assert caught.value.retry_after == pytest.approx(min(12.5 * 0.5, 10))


def test_batch_finds_a_part_of_the_queue_closed() -> None:
    admission = Admission(20, 300, batch_room=0.5)
    held = admission.admit(9, 10, is_batch=True)
    admission.check(1, 10, None, is_batch=True)
    with pytest.raises(CallError) as caught:
        admission.check(2, 10, None, is_batch=True)
    assert caught.value.reason == "QUEUE_FULL" and "priority batch" in str(caught.value)
    with pytest.raises(CallError) as caught:
        admission.check(11, 1, None, is_batch=True)
    assert caught.value.reason == "BATCH_TOO_LARGE"
    admission.check(11, 10, None)
    admission.admit(11, 10)
    held.give_back(*share(10, is_batch=True))
    # What interactive calls fill is no room for batch either.
    admission.admit(1, 10)
    with pytest.raises(CallError):
        admission.check(1, 10, None, is_batch=True)


def test_interactive_waits_for_interactive_and_for_batchs_share() -> None:
    admission = _measured()
    admission.admit(40, 50, is_batch=True)
    waiting = admission.wait(40, is_batch=True)
    # Nothing has begun, but the four of 40 that fill the slots will have.
    waiting.give_back(4)
    alone = (4 + 1 - 4 + 1 / 7) / 4 * 50 * 0.01 + 50 * 0.01
    assert _expected(admission, 1, 50) == pytest.approx(alone)
    # As a batch call it takes turns with the 36.
    behind = (4 + 1 + 1 - 4) / 4 * 50 * 0.01 + 50 * 0.01
    assert admission.expected_seconds(1, 50, time.monotonic(), True) == pytest.approx(behind)
    admission.admit(8, 50)
    queued = 4 + 8 + 1 - 4
    assert _expected(admission, 1, 50) == pytest.approx(
        (queued + queued / 7) / 4 * 50 * 0.01 + 50 * 0.01
    )
    waiting.close()
    assert admission.num_waiting_batch == 0


def test_batchs_share_is_no_more_than_what_waits() -> None:
    admission = _measured()
    admission.admit(2, 50, is_batch=True)
    admission.wait(2, is_batch=True)
    admission.admit(60, 50)
    expected = (62 + 1 - 4) / 4 * 50 * 0.01 + 50 * 0.01
    assert _expected(admission, 1, 50) == pytest.approx(expected)


def test_a_large_call_is_not_ahead_of_a_small_one_with_all_it_has() -> None:
    """The engine gives calls turns: of each other one as many go first as a call has itself."""
    admission = _measured()
    admission.admit(60, 50)
    large = admission.wait(60)
    large.give_back(4)
    for num, ahead in ((1, 4 + 1), (3, 4 + 3), (56, 4 + 56), (70, 4 + 56)):
        expected = (ahead + num - 4) / 4 * 50 * 0.01 + 50 * 0.01
        assert _expected(admission, num, 50) == pytest.approx(expected)
    admission.check(1, 50, 1.5)
    admission.admit(2, 50)
    other = admission.wait(2)
    expected = (4 + 3 + 2 + 3 - 4) / 4 * 50 * 0.01 + 50 * 0.01
    assert _expected(admission, 3, 50) == pytest.approx(expected)
    other.close()
    large.close()
    # What has begun is ahead of everybody.
    assert _expected(admission, 1, 50) == pytest.approx((62 + 1 - 4) / 4 * 0.5 + 0.5)
