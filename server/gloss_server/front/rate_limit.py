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
OwnRate = Callable[[str], float | None]
"""A client's own tokens per second, by its name; None: it has none of its own."""


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
        own_rate: the same of clients that have their own.
    """

    def __init__(
        self,
        tokens_per_second: float | None,
        burst_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        own_rate: OwnRate | None = None,
    ) -> None:
        self._usual_rate, self._own_rate = tokens_per_second, own_rate
        self._burst_seconds, self._clock = burst_seconds, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def charge(self, client: str, num_tokens: int) -> None:
        """Take a call's tokens.

        Raises:
            CallError: RATE_LIMITED, with when the bucket holds something again.
        """
        rate = self._rate(client)
        if rate is None:
            return
        bucket = self._filled(client, rate)
        if bucket.level <= 0:
            raise CallError(
                "RATE_LIMITED",
                f"this client has asked for more than {rate:g} tokens per second; come back "
                "later, or ask for fewer explanations or tokens",
                retry_after=max(-bucket.level / rate, 1e-3),
            )
        bucket.level -= num_tokens

    def spend(self, client: str, num_tokens: int) -> None:
        """Take tokens of a call that has begun already: it is not refused."""
        rate = self._rate(client)
        if rate is not None:
            self._filled(client, rate).level -= num_tokens

    def refund(self, client: str, num_tokens: int) -> None:
        """Give back what a call did not generate."""
        rate = self._rate(client)
        if rate is not None and client in self._buckets:
            bucket = self._buckets[client]
            bucket.level = min(bucket.level + num_tokens, rate * self._burst_seconds)

    def _rate(self, client: str) -> float | None:
        own = None if self._own_rate is None else self._own_rate(client)
        return self._usual_rate if own is None else own

    def _filled(self, client: str, rate: float) -> _Bucket:
        """A client's bucket as it is now; the one of who has been away longest makes room."""
        now, capacity = self._clock(), rate * self._burst_seconds
        bucket = self._buckets.pop(client, None)
        if bucket is None:
            bucket = _Bucket(capacity, now)
            if len(self._buckets) >= _MAX_CLIENTS:
                self._buckets.popitem(last=False)
        else:
            bucket.level = min(bucket.level + (now - bucket.at) * rate, capacity)
            bucket.at = now
        self._buckets[client] = bucket
        return bucket


def client_of(peer: str) -> str:
    """The client behind gRPC's name of a peer: its host, whatever its port."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
