"""Tokens per second and client: what is let in over time, and who is told to wait for how long."""

from __future__ import annotations

import pytest

from gloss_server.front.call_error import CallError
from gloss_server.front.rate_limit import RateLimit, client_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_client_gets_its_rate_and_no_more() -> None:
    clock = Clock()
    limit = RateLimit(100.0, 2.0, clock)
    taken = 0
    while clock.now < 100:
        try:
            limit.charge("a", 30)
            taken += 30
        except CallError as error:
            assert error.reason == "RATE_LIMITED" and error.retry_after is not None
        clock.now += 0.125
    # The burst, what filled since, and the debt of the last call.
    assert 100 * 100 <= taken <= 100 * 100 + 2 * 100 + 30


def test_it_says_when_there_is_something_again() -> None:
    clock = Clock()
    limit = RateLimit(100.0, 2.0, clock)
    limit.charge("a", 1000)
    with pytest.raises(CallError) as caught:
        limit.charge("a", 1)
    assert caught.value.retry_after == pytest.approx(8.0)
    clock.now += 7.9
    with pytest.raises(CallError):
        limit.charge("a", 1)
    clock.now += 0.2
    limit.charge("a", 1)


def test_others_are_not_affected_and_what_was_not_used_comes_back() -> None:
    limit = RateLimit(100.0, 2.0, Clock())
    limit.charge("a", 1000)
    limit.charge("b", 1000)
    limit.refund("a", 900)
    limit.charge("a", 1)
    with pytest.raises(CallError):
        limit.charge("b", 1)
    limit.refund("nobody", 5)


def test_a_refund_never_makes_more_than_a_full_bucket() -> None:
    limit = RateLimit(10.0, 1.0, Clock())
    limit.charge("a", 1)
    limit.refund("a", 1000)
    limit.charge("a", 11)
    with pytest.raises(CallError):
        limit.charge("a", 1)


def test_clients_with_a_rate_of_their_own() -> None:
    clock, own = Clock(), {"fast": 1000.0}
    limit = RateLimit(10.0, 2.0, clock, own.get)
    for client, most in (("slow", 20), ("fast", 2000)):
        limit.charge(client, most)
        with pytest.raises(CallError, match=f"more than {most // 2} tokens per second"):
            limit.charge(client, 1)
    clock.now += 1
    limit.charge("fast", 1000)
    # As a file says it that was read again.
    own["fast"] = 1.0
    limit.refund("fast", 1_000_000)
    limit.charge("fast", 2)
    with pytest.raises(CallError, match="more than 1 tokens per second"):
        limit.charge("fast", 1)
    alone = RateLimit(None, 2.0, clock, {"slow": 1.0}.get)
    alone.charge("slow", 2)
    with pytest.raises(CallError):
        alone.charge("slow", 1)
    for _ in range(100):
        alone.charge("fast", 10**9)


def test_no_limit() -> None:
    limit = RateLimit(None, 30.0)
    for _ in range(100):
        limit.charge("a", 10**9)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.1:5000", "ipv4:10.0.0.1"),
        ("ipv6:[::1]:5000", "ipv6:[::1]"),
        ("ipv6:%5B::1%5D:5000", "ipv6:%5B::1%5D"),
        ("unix:", "unix:"),
    ],
)
def test_a_client_is_its_host(peer: str, client: str) -> None:
    assert client_of(peer) == client
