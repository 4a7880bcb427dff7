"""When a call is tried again. gRPC does it for unary calls, as the service config says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gloss_client.errors import ConfigError

RETRYABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a call that found no server, or a full one, is tried again.

    A server's `grpc-retry-pushback-ms` stands before the backoff; a negative one ends the retries.
    Streams are tried again only before their first message, and by the client (`attempts.py`).

    Attributes:
        max_attempts: the first one included; 1: no retries. gRPC allows at most 5.
        initial_backoff: most seconds before the second attempt; the wait is drawn below it.
        max_backoff: most seconds between attempts.
        multiplier: of the backoff, from attempt to attempt.
    """

    max_attempts: int = 4
    initial_backoff: float = 0.1
    max_backoff: float = 2.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 5:
            raise ConfigError(f"retry: max_attempts: got {self.max_attempts}, expected 1 to 5")
        if not 0 < self.initial_backoff <= self.max_backoff < math.inf or self.multiplier < 1:
            raise ConfigError(
                f"retry: got {self}, expected 0 < initial_backoff <= max_backoff and a multiplier "
                "of 1 or more"
            )

    def service_config(self) -> dict[str, object]:
        """gRPC's words for it, within a method's configuration; empty: no retries."""
        if self.max_attempts == 1:
            return {}
        return {
            "retryPolicy": {
                "maxAttempts": self.max_attempts,
                "initialBackoff": f"{self.initial_backoff:.3f}s",
                "maxBackoff": f"{self.max_backoff:.3f}s",
                "backoffMultiplier": self.multiplier,
                "retryableStatusCodes": list(RETRYABLE),
            }
        }
