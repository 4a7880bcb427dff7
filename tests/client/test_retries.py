"""What is tried again, when, and what is not."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_client import (
    AsyncClient,
    Cancelled,
    Client,
    ConfigError,
    DeadlineExceeded,
    ResourceExhausted,
    RetryPolicy,
    ServerError,
    Unavailable,
)
from support.echo_server import EchoServer, echo_server
from support.echo_service import EchoService, Fault

FAST = RetryPolicy(initial_backoff=0.01, max_backoff=0.02)
QUEUE_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


STREAMS = [
    "stream_verbalize",
    "explain",
    "stream_explain",
    "watch",
    "capture",
    "stream_capture",
]
METHODS = ["verbalize", *STREAMS]


def call(client: Any, method: str, rows: np.ndarray, **options: Any) -> Any:
    given: Any = ["a", "b"] if "capture" in method else rows if "verbalize" in method else "ab"
    result = getattr(client, method)(given, **options)
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


@pytest.mark.parametrize("method", METHODS)
def test_a_negative_pushback_ends_it(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    fault = Fault(code=QUEUE_FULL, reason="DEADLINE_UNREACHABLE", pushback_ms=-1)
    server.service.faults = deque([fault] * 4)
    with pytest.raises(ResourceExhausted, match="DEADLINE_UNREACHABLE"):
        call(connect(server.address, retry=FAST), method, rows[:1])
    assert len(server.service.received) == 1


@pytest.mark.parametrize("method", METHODS)
def test_other_errors_are_not_tried_again(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    server.service.faults = deque([Fault(code=grpc.StatusCode.INTERNAL)])
    with pytest.raises(ServerError):
        call(connect(server.address, retry=FAST), method, rows[:1])
    assert len(server.service.received) == 1


@pytest.mark.parametrize("method", METHODS)
def test_one_attempt_means_one(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    server.service.faults = deque([Fault(code=UNAVAILABLE)])
    with pytest.raises(Unavailable):
        call(connect(server.address, retry=RetryPolicy(max_attempts=1)), method, rows[:1])
    assert len(server.service.received) == 1


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("method", STREAMS)
def test_a_stream_that_has_begun_is_not_tried_again(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str, after: int
) -> None:
    """An explained text, or a captured one, comes as a stream, too."""
    fault = Fault(code=UNAVAILABLE, reason="ENGINE_RESTARTED", after=after)
    server.service.faults = deque([fault])
    with pytest.raises(Unavailable, match="ENGINE_RESTARTED"):
        call(connect(server.address, retry=FAST), method, rows[:2])
    assert len(server.service.received) == 1


@pytest.mark.parametrize("most", [2, 3])
@pytest.mark.parametrize("method", STREAMS)
def test_a_streams_attempts_are_bounded(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str, most: int
) -> None:
    server.service.faults = deque([Fault(code=UNAVAILABLE, reason="DRAINING")] * 10)
    policy = RetryPolicy(max_attempts=most, initial_backoff=0.01, max_backoff=0.02)
    with pytest.raises(Unavailable, match="DRAINING"):
        call(connect(server.address, retry=policy), method, rows[:2])
    assert len(server.service.received) == most
    assert len(request_ids(server)) == 1


@pytest.mark.parametrize("method", STREAMS)
def test_a_stream_obeys_a_delay_that_only_the_details_state(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    """A proxy may have dropped the pushback."""
    server.service.faults = deque([Fault(code=QUEUE_FULL, reason="QUEUE_FULL", retry_after=0.3)])
    assert call(connect(server.address, retry=FAST), method, rows[:2])
    assert 0.29 < gaps(server)[0] < 0.5


@pytest.mark.timeout(15)
@pytest.mark.parametrize("wait_for_ready", [False, True])
@pytest.mark.parametrize("method", STREAMS)
def test_a_stream_ends_although_health_turned_meanwhile(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str, wait_for_ready: bool
) -> None:
    """Were it gRPC that tries it again, it would never end."""
    server.service.faults = deque([Fault(code=UNAVAILABLE, reason="LOADING", pushback_ms=400)] * 9)
    client = connect(server.address, retry=FAST, wait_for_ready=wait_for_ready)

    def turn() -> None:
        while not server.service.received:
            time.sleep(0.01)
        server.set_serving(False)

    thread = threading.Thread(target=turn)
    thread.start()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded if wait_for_ready else Unavailable):
        call(client, method, rows[:2], timeout=1)
    thread.join()
    assert 0.39 < time.monotonic() - began < 2
    assert len(server.service.received) == 1


@pytest.mark.parametrize("num_rows", [1, 150])
def test_a_stream_that_waits_ends_at_its_deadline(
    connect: Any, server: EchoServer, rows: np.ndarray, num_rows: int
) -> None:
    """A stream of one piece waits in place, several in threads or tasks."""
    client = limited_client(connect, server)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="the last attempt ended with FULL") as raised:
        list(client.stream_verbalize(rows[:num_rows], timeout=0.4, request_id="mine"))
    assert 0.39 < time.monotonic() - began < 1.4
    assert str(raised.value.request_id).startswith("mine")


def limited_client(connect: Any, server: EchoServer) -> Any:
    """Its batches of 150 are four streams; all streams are told to wait a minute."""
    server.service.limits.max_items = 40
    client = connect(server.address)
    client.model_info()
    server.service.faults = deque([Fault(code=QUEUE_FULL, reason="FULL", pushback_ms=60_000)] * 4)
    return client


@pytest.mark.timeout(15)
@pytest.mark.parametrize("num_rows", [1, 150])
@pytest.mark.parametrize("what", ["stream", "client"])
def test_a_stream_that_waits_is_closed_from_another_thread(
    server: EchoServer, rows: np.ndarray, num_rows: int, what: str
) -> None:
    with Client(server.address, timeout=10) as client:
        limited_client(lambda _: client, server)
        with client.stream_verbalize(rows[:num_rows]) as stream:
            threading.Timer(0.2, stream.close if what == "stream" else client.close).start()
            began = time.monotonic()
            if what == "stream":
                assert list(stream) == []
            else:
                with pytest.raises(Cancelled, match="the client was closed"):
                    list(stream)
            assert 0.19 < time.monotonic() - began < 2
    for thread in threading.enumerate():
        if thread.name == "gloss-client-stream":
            thread.join(2)
            assert not thread.is_alive()


@pytest.mark.timeout(15)
@pytest.mark.parametrize("num_rows", [1, 150])
@pytest.mark.parametrize("how", ["stream", "client", "task"])
def test_an_asyncio_stream_that_waits_is_left(
    runner: asyncio.Runner, server: EchoServer, rows: np.ndarray, num_rows: int, how: str
) -> None:
    async def read(stream: Any) -> list[Any]:
        async with stream:
            return [event async for event in stream]

    async def leave() -> None:
        server.service.limits.max_items = 40
        fault = Fault(code=QUEUE_FULL, reason="FULL", pushback_ms=60_000)
        async with AsyncClient(server.address, timeout=10) as client:
            await client.model_info()
            server.service.faults = deque([fault] * 4)
            stream = client.stream_verbalize(rows[:num_rows])
            task = asyncio.create_task(read(stream))
            await asyncio.sleep(0.2)
            if how == "task":
                task.cancel()
            else:
                await (stream.aclose() if how == "stream" else client.close())
            done, _ = await asyncio.wait([task], timeout=2)
            assert done, "the reader was not let go"
            if how == "stream":
                assert await task == []
            else:
                error = Cancelled if how == "client" else asyncio.CancelledError
                with pytest.raises(error):
                    await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

    runner.run(leave())


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
