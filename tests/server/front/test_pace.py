"""The estimate of how long a call takes: it learns what it leaves out, believes nothing for ever,
and keeps a server at work whose calls ask for more than it has."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from gloss_server.front.pace import Pace, Promise

STEP = 0.02


def _pace(num_slots: int = 64) -> Pace:
    pace = Pace()
    pace.num_slots = num_slots
    return pace


def _know(pace: Pace, num_rows: int, seconds: float, at: float = 0.0) -> None:
    """As many steps of a size as make it known."""
    for _ in range(3):
        pace.step(num_rows, seconds, at)


def _promise(expected: float, remaining: float = 2.0, since: float = 0.0) -> Promise:
    return Promise(expected=expected, remaining=remaining, since=since)


def test_the_longest_of_many_takes_longer_than_the_mean_and_never_than_the_limit() -> None:
    pace = _pace()
    _know(pace, 8, STEP)
    for num_tokens in (40, 60) * 200:
        pace.explanation(num_tokens)
    one, many = (pace.expected_seconds(0, num, 1000) for num in (1, 32))
    assert one is not None and many is not None
    assert 50 * STEP < one < many < 90 * STEP
    assert pace.expected_seconds(0, 32, 55) == pytest.approx(55 * STEP)


def test_steps_count_by_how_many_rows_they_have() -> None:
    pace = _pace()
    pace.explanation(50)
    for rows, seconds in ((1, 0.0042), (16, 0.0072), (64, 0.0168)) * 50:
        pace.step(rows, seconds, 0.0)
    # 4 ms and 0.2 ms a row, and no more rows than there are slots.
    expected = [pace.expected_seconds(others, 1, 50) for others in (0, 7, 40, 63)]
    assert expected == pytest.approx([0.21, 0.28, 0.61, 0.84], rel=0.01)


def test_steps_that_are_all_alike_are_a_flat_line() -> None:
    pace = _pace()
    pace.explanation(50)
    for _ in range(10):
        pace.step(8, STEP, 0.0)
    assert pace.expected_seconds(0, 1, 50) == pytest.approx(50 * STEP)
    # Larger steps that are faster are noise.
    _know(pace, 32, STEP / 2)
    seconds = [pace.expected_seconds(others, 1, 50) for others in (0, 63)]
    assert seconds[0] == seconds[1]


def test_sizes_that_have_not_come_for_a_while_are_as_slow_as_those_that_come() -> None:
    """Else a bad moment with all slots full would be believed, and they would not fill again; and
    one with all slots full would speak for empty ones."""
    pace = _pace()
    pace.explanation(50)
    for rows, seconds in ((1, 0.0042), (16, 0.0072), (64, 0.0168)) * 200:
        pace.step(rows, seconds, 0.0)
    for _ in range(100):
        pace.step(16, 0.036, 0.0)
    slow = [pace.expected_seconds(others, 1, 50) for others in (0, 15, 63)]
    assert slow == pytest.approx([1.05, 1.8, 4.2], rel=0.25)
    for _ in range(100):
        pace.step(64, 0.0168, 0.0)
    fast = [pace.expected_seconds(others, 1, 50) for others in (0, 15, 63)]
    assert fast == pytest.approx([0.21, 0.36, 0.84], rel=0.25)


def test_one_slow_step_of_a_size_does_not_keep_calls_from_it() -> None:
    pace = _pace()
    pace.explanation(50)
    for rows, seconds in (*((1, 0.0042), (16, 0.0072)) * 50, (64, 0.2), *((16, 0.0072),) * 50):
        pace.step(rows, seconds, 0.0)
    expected = pace.expected_seconds(63, 1, 50)
    assert expected is not None and 0.42 < expected < 1.05


def test_the_margin_follows_what_nearly_all_calls_took() -> None:
    pace, rng = _pace(), random.Random(0)
    for number in range(3000):
        now = number / 100
        pace.ended(_promise(1.0, since=now - rng.uniform(1.0, 1.6)), now, True)
    assert 1.5 < pace.margin < 1.7


def test_calls_with_plenty_of_time_leave_the_margin_alone() -> None:
    pace = _pace()
    for _ in range(100):
        pace.ended(_promise(1.0, remaining=60.0), 5.0, True)
    assert pace.margin == 1.0


def test_who_leaves_early_says_nothing_and_who_ran_out_of_time_does() -> None:
    pace = _pace()
    pace.ended(_promise(1.5), 1.0, False)
    assert pace.margin == 1.0
    pace.ended(_promise(0.5), 2.0, False)
    assert pace.margin > 1.04


def test_the_margin_is_bounded_and_falls_back_with_time() -> None:
    pace = _pace()
    for _ in range(100):
        pace.ended(_promise(0.5), 50.0, False)
    assert pace.margin == pytest.approx(2.0)
    assert pace.margin_at(51.0) > 1.9
    assert pace.margin_at(150.0) == pytest.approx(1.0, abs=0.01)


def test_an_engine_that_stood_still_is_tried_by_one_call() -> None:
    pace = _pace()
    _know(pace, 64, 0.5, 10.0)
    assert not pace.is_untested(0, 10.5)
    assert pace.is_untested(0, 11.5)
    assert not pace.is_untested(1, 11.5)


def test_what_has_never_ended_is_as_long_as_it_may_be() -> None:
    pace = _pace()
    assert pace.expected_seconds(0, 1, 100) is None
    _know(pace, 64, STEP)
    assert pace.expected_seconds(0, 1, 100) == pytest.approx(100 * STEP)
    assert pace.expected_seconds(127, 1, 100) == pytest.approx(2 * 100 * STEP)
    pace.explanation(50)
    assert pace.expected_seconds(127, 1, 100) == pytest.approx(2 * 50 * STEP)


def test_another_engine_is_not_known() -> None:
    pace = _pace()
    _know(pace, 64, STEP)
    pace.explanation(50)
    pace.ended(_promise(0.5), 2.0, False)
    pace.forget()
    assert pace.expected_seconds(0, 1, 50) is None and pace.margin == 1.0


@dataclass
class _Job:
    promise: Promise | None
    begun: float
    deadline: float
    left: int
    num_tokens: int


def _overload(
    times_capacity: float, each: float = 0.0001, seconds: float = 30.0
) -> tuple[float, float]:
    """Tokens of good calls over those an engine of full slots gives, and the share of calls that
    expire of those that end, of an engine whose steps take 4 ms and `each` second a row, with a
    deadline of 2 s; the first third is not looked at."""
    rng, pace, slots = random.Random(1), _pace(256), 256
    jobs: list[_Job] = []
    now = good = expired = ended = total = 0.0
    full = 0.004 + each * slots
    capacity = slots / (full * 50)
    due = 0.0
    while now < seconds:
        while due <= now:
            due += rng.expovariate(times_capacity * capacity)
            expected = pace.expected_seconds(len(jobs), 1, 120)
            is_free = expected is None or pace.is_untested(len(jobs), now)
            if is_free or expected * pace.margin_at(now) <= 2.0:
                promise = None if expected is None else _promise(expected, since=now)
                num = rng.randint(35, 65)
                jobs.append(_Job(promise, now, now + 2.0, num, num))
        running = jobs[:slots]
        took = 0.004 + each * len(running)
        now += took
        pace.step(len(running), took, now)
        for job in running:
            job.left -= 1
        for job in [job for job in jobs if job.left == 0 or now > job.deadline]:
            jobs.remove(job)
            is_whole = now <= job.deadline
            if job.promise is not None:
                pace.ended(job.promise, now, is_whole)
            is_counted = now > seconds / 3
            ended += is_counted
            if is_whole:
                pace.explanation(job.num_tokens)
                good += job.num_tokens * is_counted
            else:
                expired += is_counted
        total += slots / full * took * (now > seconds / 3)
    return good / total, expired / ended


@pytest.mark.parametrize("times_capacity", [1.5, 8.0])
def test_past_the_knee_the_engine_is_busy_with_calls_that_end_in_time(
    times_capacity: float,
) -> None:
    goodput, expired = _overload(times_capacity)
    assert goodput > 0.9
    assert expired < 0.05


def test_an_engine_too_slow_for_full_slots_is_not_filled_before_it_is_known() -> None:
    """No explanation among 256 of 1 ms a row would end in 2 s, and only ends tell how long they
    are."""
    goodput, expired = _overload(8.0, each=0.001)
    assert goodput > 0.75
    assert expired < 0.05


@pytest.mark.parametrize("at", [0, 1, 3])
def test_one_step_in_a_bad_moment_keeps_nobody_away_from_a_young_engine(at: int) -> None:
    """0.85 s among steps of 10 ms, with nothing ended yet: 120 tokens are taken to last seconds,
    not half a minute."""
    pace = Pace()
    pace.num_slots = 8
    for number in range(5):
        pace.step(4, 0.85 if number == at else 0.01, float(number))
    expected = pace.expected_seconds(0, 4, 120)
    assert expected is not None and 1 < expected < 6


def test_steps_of_few_rows_say_nothing_of_full_slots() -> None:
    """A second row that came in a bad moment made each of 256 as slow: a call with a minute's time
    was refused by an engine that had taken three steps."""
    pace = _pace(256)
    for rows, seconds in ((1, 0.01), (2, 0.1), (1, 0.01), (2, 0.01)):
        pace.step(rows, seconds, 0.0)
        expected = pace.expected_seconds(2, 348, 200)
        assert expected is None or expected < 30
    _know(pace, 1, 0.01)
    _know(pace, 2, 0.011)
    expected = pace.expected_seconds(2, 348, 200)
    assert expected is not None and expected < 30


def test_a_young_engine_in_bad_moments_is_not_taken_for_a_slow_one() -> None:
    """A tenth of the steps take ten times what they should: no estimate of the first 60 steps is
    more than six times what it should be, over 200 engines."""
    for seed in range(200):
        rng, pace, rows = random.Random(seed), _pace(256), 1
        for _ in range(60):
            rows = min(rows + rng.choice([0, 0, 1, 1, 2, 5, rows]), 256)
            slow = rng.lognormvariate(0, 0.5) * (10 if rng.random() < 0.1 else 1)
            pace.step(rows, (0.004 + 0.0001 * rows) * slow, 0.0)
            expected = pace.expected_seconds(rows, 348, 200)
            usual = ((rows + 348) / 256) * 200 * (0.004 + 0.0001 * 256)
            assert expected is None or expected < 6 * usual, seed


def test_an_engine_that_stays_slow_is_soon_known_to_be() -> None:
    pace = Pace()
    pace.num_slots = 8
    for number in range(200):
        pace.step(4, 0.01, float(number))
    for number in range(40):
        pace.step(4, 0.2, float(200 + number))
    expected = pace.expected_seconds(0, 4, 120)
    assert expected is not None and expected > 0.75 * 120 * 0.2


def test_a_clock_that_has_not_moved_is_no_failure() -> None:
    pace = Pace()
    for seconds in (0.0, 0.01, 0.0):
        pace.step(1, seconds, 0.0)
    assert pace.expected_seconds(0, 1, 10) is not None
