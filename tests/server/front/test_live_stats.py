"""Figures of the last seconds: true to the values, forgotten in time, of fixed size."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gloss_server.front.live_stats import QUANTILES, WindowedQuantiles, WindowedRate


class FakeClock:
    """Seconds that pass when they are told to; it begins far from 0, as monotonic clocks do."""

    def __init__(self) -> None:
        self.now = 86_400.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_within_two_and_a_half_percent(clock: FakeClock, seed: int) -> None:
    values = np.exp(np.random.default_rng(seed).normal(-4, 2, 3001))
    window = WindowedQuantiles(clock)
    for value in values:
        clock.now += 0.01
        window.observe(float(value))
    found = window.read()
    assert found.count == 3001
    exact = np.quantile(values, QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(found.values, exact, rtol=0.025)


def test_a_few_values_and_none(clock: FakeClock) -> None:
    window = WindowedQuantiles(clock)
    assert window.read().count == 0 and window.read().values == ()
    window.observe(2.0)
    assert window.read().values == pytest.approx([2.0] * 4, rel=0.025)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 1e9])
def test_values_beyond_the_scale_stay_at_its_ends(clock: FakeClock, value: float) -> None:
    window = WindowedQuantiles(clock)
    window.observe(value)
    (found, *_) = window.read().values
    assert found < 2e-5 if value < 1 else found > 2000


def test_values_are_forgotten_after_a_minute_and_not_before(clock: FakeClock) -> None:
    window = WindowedQuantiles(clock)
    window.observe(1.0)
    clock.now += 55
    window.observe(3.0)
    assert window.read().count == 2
    clock.now += 6
    assert window.read().count == 1
    # Long idle: every slot is stale, also those that the ring came by more than once.
    clock.now += 3600
    assert window.read().count == 0
    window.observe(1.0)
    assert window.read().count == 1


def test_a_rate_is_of_the_last_ten_seconds(clock: FakeClock) -> None:
    rate = WindowedRate(clock)
    for _ in range(400):
        clock.now += 0.05
        rate.add(5)
    assert rate.read() == pytest.approx(100, rel=0.02)
    for _ in range(100):
        clock.now += 0.05
        rate.add(1)
    assert rate.read() == pytest.approx(60, rel=0.05)
    clock.now += 10
    assert rate.read() == 0


def test_a_young_server_does_not_boast(clock: FakeClock) -> None:
    rate = WindowedRate(clock)
    clock.now += 0.001
    rate.add(7)
    assert rate.read() == 7
    clock.now += 3.999
    assert rate.read() == pytest.approx(7 / 4)


def test_memory_does_not_grow(clock: FakeClock) -> None:
    window, rate = WindowedQuantiles(clock), WindowedRate(clock)

    def work() -> None:
        for number in range(5000):
            clock.now += 0.037
            window.observe(number / 100)
            rate.add(number)

    work()
    tracemalloc.start()
    try:
        work()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2000
