"""What a traced call hands to all that works for it. Knows nothing of OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A call's span as its children see it, in whichever process they are.

    Attributes:
        headers: W3C's, by name: traceparent, and tracestate where the caller sent one.
        wall_offset_ns: what the monotonic clock lacks to the wall clock. It is read once a call,
            so that the times of one call's spans nest, however the wall clock jumps meanwhile.
    """

    headers: Mapping[str, str]
    wall_offset_ns: int

    def wall_ns(self, monotonic: float) -> int:
        """A moment of the machine's monotonic clock, seconds, as spans state it."""
        return self.wall_offset_ns + round(monotonic * 1e9)


def wall_offset_ns() -> int:
    """What the monotonic clock lacks to the wall clock at this moment."""
    return time.time_ns() - time.monotonic_ns()
