"""How many tokens each client may ask for per second, so that one cannot take all there is.

A token bucket for each client: a call may begin while its client's bucket holds anything, and takes
its limit of tokens out, also below zero; what it did not generate comes back when it ends. So a
large call is never refused for ever, and is paid for afterwards.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gloss_server.front.call_error import CallError

_MAX_CLIENTS = 10_000


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimit:
    """Buckets by client.

    Args:
        tokens_per_second: at which a bucket fills; None: no limit.
        burst_seconds: for how long it fills.
        clock: monotonic, seconds.
    """

    def __init__(
        self,
        tokens_per_second: float | None,
        burst_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate, self._clock = tokens_per_second, clock
        self._capacity = 0.0 if tokens_per_second is None else tokens_per_second * burst_seconds
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def charge(self, client: str, num_tokens: int) -> None:
        """Take a call's tokens.

        Raises:
            CallError: RATE_LIMITED, with when the bucket holds something again.
        """
        if self._rate is None:
            return
        bucket = self._filled(client, self._rate)
        if bucket.level <= 0:
            raise CallError(
                "RATE_LIMITED",
                f"this client has asked for more than {self._rate:g} tokens per second; come back "
                "later, or ask for fewer explanations or tokens",
                retry_after=max(-bucket.level / self._rate, 1e-3),
            )
        bucket.level -= num_tokens

    def spend(self, client: str, num_tokens: int) -> None:
        """Take tokens of a call that has begun already: it is not refused."""
        if self._rate is not None:
            self._filled(client, self._rate).level -= num_tokens

    def refund(self, client: str, num_tokens: int) -> None:
        """Give back what a call did not generate."""
        if self._rate is not None and client in self._buckets:
            bucket = self._buckets[client]
            bucket.level = min(bucket.level + num_tokens, self._capacity)

    def _filled(self, client: str, rate: float) -> _Bucket:
        """A client's bucket as it is now; the one of who has been away longest makes room."""
        now = self._clock()
        bucket = self._buckets.pop(client, None)
        if bucket is None:
            bucket = _Bucket(self._capacity, now)
            if len(self._buckets) >= _MAX_CLIENTS:
                self._buckets.popitem(last=False)
        else:
            bucket.level = min(bucket.level + (now - bucket.at) * rate, self._capacity)
            bucket.at = now
        self._buckets[client] = bucket
        return bucket


def client_of(peer: str) -> str:
    """The client behind gRPC's name of a peer: its host, whatever its port."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
