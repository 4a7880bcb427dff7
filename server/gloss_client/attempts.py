"""When a stream is tried again. Sends nothing itself, and waits for nothing.

The client tries streams again, not gRPC: a stream that gRPC itself tries again while the server
says NOT_SERVING never ends, not even at its deadline (grpcio 1.85.3).
"""

from __future__ import annotations

import random
from typing import NamedTuple

from gloss_client.deadline import Deadline
from gloss_client.errors import DeadlineExceeded, GlossClientError
from gloss_client.retry_policy import RETRYABLE, RetryPolicy
from gloss_client.status import EndedCall, read_pushback


class Pause(NamedTuple):
    """What comes between two attempts, or after the last.

    Attributes:
        seconds: how long, at most until the deadline.
        error: what the call fails with then, its time being over; None: it is tried again.
    """

    seconds: float
    error: DeadlineExceeded | None


class Attempts:
    """The attempts of one stream that has brought no message yet.

    Args:
        policy: how many, and how far apart.
        deadline: of the whole call.
    """

    def __init__(self, policy: RetryPolicy, deadline: Deadline) -> None:
        self._policy, self._deadline = policy, deadline
        self._num_failed, self._backoff = 0, policy.initial_backoff

    def pause_after(self, ended: EndedCall, error: GlossClientError) -> Pause | None:
        """The pause after an attempt that failed; None: it was the last.

        Args:
            ended: the attempt that failed.
            error: what that raises.
        """
        self._num_failed += 1
        if error.code not in RETRYABLE or self._num_failed >= self._policy.max_attempts:
            return None
        pushback = read_pushback(ended)
        if pushback is not None and pushback < 0:
            return None
        stated = error.retry_after if pushback is None else pushback
        if stated is None:
            stated = random.uniform(0, self._backoff)
            self._backoff = min(self._backoff * self._policy.multiplier, self._policy.max_backoff)
        left = self._deadline.remaining()
        if stated < left:
            return Pause(stated, None)
        late = f"no answer in time; the last attempt ended with {error}"
        return Pause(left, DeadlineExceeded(late, request_id=error.request_id))
