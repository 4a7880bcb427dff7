"""What is tried again, when, and what is not."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_client import ConfigError, ResourceExhausted, RetryPolicy, ServerError, Unavailable
from support.echo_server import EchoServer, echo_server
from support.echo_service import EchoService, Fault

FAST = RetryPolicy(initial_backoff=0.01, max_backoff=0.02)
QUEUE_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


METHODS = ["verbalize", "stream_verbalize", "explain", "stream_explain", "watch", "capture"]


def call(client: Any, method: str, rows: np.ndarray) -> Any:
    given: Any = {"capture": ["a", "b"]}.get(method, rows if "verbalize" in method else "ab")
    result = getattr(client, method)(given)
    if method == "capture":
        return result.places
    return result.explanations if method in ("verbalize", "explain") else list(result)


def gaps(server: EchoServer) -> list[float]:
    """Seconds between the attempts."""
    times = [received.time for received in server.service.received]
    return [after - before for before, after in itertools.pairwise(times)]


def request_ids(server: EchoServer) -> set[str | None]:
    """Of all attempts; a Capture has none."""
    requests = [received.request for received in server.service.received]
    return {getattr(request, "request_id", None) for request in requests}


@pytest.mark.parametrize("method", METHODS)
def test_the_servers_pushback_is_obeyed(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    """The backoff would be under 20 ms."""
    server.service.faults = deque(
        [
            Fault(code=QUEUE_FULL, reason="QUEUE_FULL", pushback_ms=400),
            Fault(code=UNAVAILABLE, reason="LOADING", pushback_ms=200),
        ]
    )
    assert call(connect(server.address, retry=FAST), method, rows[:2])
    first, second = gaps(server)
    assert 0.39 < first < 0.6
    assert 0.19 < second < 0.4
    assert len(request_ids(server)) == 1


@pytest.mark.parametrize("method", METHODS)
def test_without_pushback_the_backoff_counts(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    server.service.faults = deque([Fault(code=UNAVAILABLE)] * 3)
    assert call(connect(server.address, retry=FAST), method, rows[:2])
    assert len(server.service.received) == 4
    assert max(gaps(server)) < 0.15
    assert len(request_ids(server)) == 1


def test_attempts_are_numbered_and_bounded(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    server.service.faults = deque([Fault(code=UNAVAILABLE, reason="DRAINING")] * 10)
    with pytest.raises(Unavailable, match="DRAINING"):
        connect(server.address, retry=FAST).verbalize(rows[:1])
    attempts = [
        received.metadata.get("grpc-previous-rpc-attempts") for received in server.service.received
    ]
    assert attempts == [None, "1", "2", "3"]


def test_a_negative_pushback_ends_it(connect: Any, server: EchoServer, rows: np.ndarray) -> None:
    fault = Fault(code=QUEUE_FULL, reason="DEADLINE_UNREACHABLE", pushback_ms=-1)
    server.service.faults = deque([fault] * 4)
    with pytest.raises(ResourceExhausted, match="DEADLINE_UNREACHABLE"):
        connect(server.address, retry=FAST).verbalize(rows[:1])
    assert len(server.service.received) == 1


def test_other_errors_are_not_tried_again(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    server.service.faults = deque([Fault(code=grpc.StatusCode.INTERNAL)])
    with pytest.raises(ServerError):
        connect(server.address, retry=FAST).verbalize(rows[:1])
    assert len(server.service.received) == 1


def test_one_attempt_means_one(connect: Any, server: EchoServer, rows: np.ndarray) -> None:
    server.service.faults = deque([Fault(code=UNAVAILABLE)])
    with pytest.raises(Unavailable):
        connect(server.address, retry=RetryPolicy(max_attempts=1)).verbalize(rows[:1])
    assert len(server.service.received) == 1


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("method", METHODS[1:])
def test_a_stream_that_has_begun_is_not_tried_again(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str, after: int
) -> None:
    """An explained text, or a captured one, comes as a stream, too."""
    fault = Fault(code=UNAVAILABLE, reason="ENGINE_RESTARTED", after=after)
    server.service.faults = deque([fault])
    with pytest.raises(Unavailable, match="ENGINE_RESTARTED"):
        call(connect(server.address, retry=FAST), method, rows[:2])
    assert len(server.service.received) == 1


def test_a_large_request_is_tried_again(connect: Any) -> None:
    """2.6 MB; gRPC by itself keeps 256 KiB of a request for retries and says nothing beyond."""
    wide = np.random.default_rng(0).standard_normal((40, 16384)).astype(np.float32)
    service = EchoService(d_model=16384)
    service.faults = deque([Fault(code=UNAVAILABLE)] * 2)
    with echo_server(service) as server:
        assert connect(server.address, retry=FAST).verbalize(wide, seed=1).explanations
    assert len(service.received) == 3
    bodies = {received.request.activations.data for received in service.received}
    assert bodies == {wide.tobytes()}


def test_an_oversized_request_fails_and_the_connection_lives(
    connect: Any, rows: np.ndarray
) -> None:
    """gRPC itself refuses it, without pushback, so that it is tried again; not for ever."""
    with echo_server(max_message_bytes=100_000) as server:
        client = connect(server.address, retry=FAST)
        with pytest.raises(ResourceExhausted, match="larger than max"):
            client.reconstruct(["x" * 200_000])
        assert server.service.received == []
        assert client.verbalize(rows[:1]).explanations


def test_pieces_are_tried_again_one_by_one(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    server.service.limits.max_items = 40
    client = connect(server.address, retry=FAST)
    client.model_info()
    expected = client.verbalize(rows, seed=1).explanations
    server.service.received.clear()
    server.service.faults = deque([Fault(code=QUEUE_FULL, reason="QUEUE_FULL", pushback_ms=50)] * 3)
    assert client.verbalize(rows, seed=1).explanations == expected
    assert len(server.service.received) == 4 + 3


@pytest.mark.parametrize(
    "policy",
    [
        {"max_attempts": 0},
        {"max_attempts": 6},
        {"initial_backoff": 0},
        {"initial_backoff": 3.0},
        {"max_backoff": float("inf")},
        {"multiplier": 0.5},
    ],
)
def test_a_policy_that_cannot_work_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="retry: "):
        RetryPolicy(**policy)
