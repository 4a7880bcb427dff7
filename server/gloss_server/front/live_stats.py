"""Figures of this moment: quantiles over the last minute, rates over the last ten seconds.

Memory is fixed: counts per bucket in a ring of time slots, whatever the load. A quantile is off by
at most 2.5% of its value. For the loop's thread alone; time comes from a monotonic clock, so that
a clock that jumps changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]

QUANTILES = (0.5, 0.9, 0.95, 0.99)
_LEAST_SECONDS = 1e-5
_GROWTH = math.log(1.05)
_NUM_BUCKETS = 400
"""Up to 1e-5 * 1.05^400 s, 50 minutes."""


class _Ring:
    """Counts in time slots; those older than the ring are 0 again.

    Args:
        num_slots: how many; the last is the one that is being filled.
        slot_seconds: how long one is.
        width: counts of a slot.
    """

    def __init__(self, num_slots: int, slot_seconds: float, width: int, clock: Clock) -> None:
        self.counts = np.zeros((num_slots, width), dtype=np.int64)
        self._slot_seconds, self._clock = slot_seconds, clock
        self._began = clock()
        self._slot = 0

    def turn(self) -> int:
        """The present slot's row, after clearing what has become too old."""
        slot = int((self._clock() - self._began) / self._slot_seconds)
        if slot > self._slot:
            num_slots = len(self.counts)
            for stale in range(max(self._slot + 1, slot - num_slots + 1), slot + 1):
                self.counts[stale % num_slots] = 0
            self._slot = slot
        return self._slot % len(self.counts)

    def covered_seconds(self) -> float:
        """The time that the counts are of; call after `turn`."""
        passed = self._clock() - self._began
        first = max(self._slot - len(self.counts) + 1, 0)
        return passed - first * self._slot_seconds


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Of the values of a window; count is how many there were, values as in QUANTILES, seconds."""

    count: int
    values: tuple[float, ...]


class WindowedQuantiles:
    """Quantiles of a duration over the last minute."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._ring = _Ring(15, 4.0, _NUM_BUCKETS, clock)

    def observe(self, seconds: float) -> None:
        """Note one."""
        # Bucket i holds (1.05^(i-1), 1.05^i] times the least; the first and last take what is over.
        ratio = max(seconds / _LEAST_SECONDS, 1.0)
        bucket = min(math.ceil(math.log(ratio) / _GROWTH), _NUM_BUCKETS - 1)
        row = self._ring.turn()
        self._ring.counts[row, bucket] += 1

    def read(self) -> Quantiles:
        """Those of now."""
        self._ring.turn()
        cumulative = self._ring.counts.sum(axis=0).cumsum()
        count = int(cumulative[-1])
        if not count:
            return Quantiles(count=0, values=())
        ranks = [max(math.ceil(q * count), 1) for q in QUANTILES]
        found = np.searchsorted(cumulative, ranks)
        # The middle of a bucket, in ratio.
        values = _LEAST_SECONDS * np.exp((found - 0.5) * _GROWTH)
        return Quantiles(count=count, values=tuple(float(value) for value in values))


class WindowedRate:
    """Events per second over the last ten seconds, or since the start if that is less."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._ring = _Ring(20, 0.5, 1, clock)

    def add(self, count: int) -> None:
        """Note `count` events."""
        row = self._ring.turn()
        self._ring.counts[row, 0] += count

    def read(self) -> float:
        """The rate of now."""
        self._ring.turn()
        # A server that is younger than a second would show the first token as a great rate.
        return float(self._ring.counts.sum()) / max(self._ring.covered_seconds(), 1.0)
