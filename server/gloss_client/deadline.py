"""The time a call has, over all its pieces and attempts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from gloss_client.errors import InvalidRequest


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock.

    Attributes:
        timeout: seconds the call was given.
        start: when it began.
    """

    timeout: float
    start: float

    @classmethod
    def after(cls, timeout: float) -> Deadline:
        """`timeout` seconds from now.

        Raises:
            InvalidRequest: no positive number; every call has a deadline.
        """
        if not 0 < timeout < math.inf:
            raise InvalidRequest(
                f"timeout: got {timeout}, expected seconds above 0; every call has a deadline",
                field="timeout",
            )
        return cls(timeout, time.monotonic())

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.start

    def remaining(self) -> float:
        """Seconds that are left, at least 0: gRPC ends a call without time by itself."""
        return max(0.0, self.timeout - self.elapsed())
