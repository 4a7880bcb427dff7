"""Every call has a deadline, and keeps it, whatever happens within."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_client import Client, DeadlineExceeded
from support.echo_server import EchoServer
from support.echo_service import Fault


@pytest.mark.parametrize(
    "method",
    [
        "verbalize",
        "stream_verbalize",
        "explain",
        "stream_explain",
        "capture",
        "stream_capture",
        "reconstruct",
        "score",
        "model_info",
        "stats",
    ],
)
def test_every_call_has_the_clients_deadline_or_its_own(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    client = connect(server.address, timeout=33)
    arguments: dict[str, tuple[Any, ...]] = {
        "verbalize": (rows[:1],),
        "stream_verbalize": (rows[:1],),
        "explain": ("a",),
        "stream_explain": ("a",),
        "capture": (["a"],),
        "stream_capture": (["a"],),
        "reconstruct": (["a"],),
        "score": (["a"], rows[:1]),
    }
    for options in ({}, {"timeout": 7}):
        done = getattr(client, method)(*arguments.get(method, ()), **options)
        if method.startswith("stream"):
            list(done)
    usual, own = (received.time_remaining for received in server.service.received)
    # gRPC rounds up to what its header can say, by under 1%.
    assert 32 < usual < 33 * 1.01
    assert 6 < own < 7 * 1.01


def test_a_watch_has_ten_minutes_or_its_own(connect: Any, server: EchoServer) -> None:
    """The client's usual deadline would cut it."""
    client = connect(server.address, timeout=1)
    for options in ({}, {"timeout": None}, {"timeout": 7}):
        list(client.watch("a", **options))
    *usual, own = (received.time_remaining for received in server.service.received)
    assert all(599 < one < 600 * 1.01 for one in usual)
    assert 6 < own < 7 * 1.01


@pytest.mark.parametrize("method", ["explain", "stream_explain", "watch", "capture"])
def test_a_slow_text_ends_in_time(connect: Any, server: EchoServer, method: str) -> None:
    """After its first message."""
    server.service.step_seconds = 5
    text = ["a"] if method == "capture" else "a"
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=f"no answer from {server.address} in time"):
        list(getattr(connect(server.address), method)(text, timeout=0.3))
    assert 0.29 < time.monotonic() - began < 1.3


def test_the_usual_deadline_is_a_minute(server: EchoServer, rows: np.ndarray) -> None:
    with Client(server.address) as client:
        client.verbalize(rows[:1])
    assert 59 < server.service.received[0].time_remaining < 60 * 1.01


@pytest.mark.parametrize("method", ["verbalize", "stream_verbalize"])
@pytest.mark.parametrize("num_rows", [1, 150])
def test_a_slow_call_ends_in_time(
    connect: Any, server: EchoServer, rows: np.ndarray, method: str, num_rows: int
) -> None:
    server.service.limits.max_items = 40
    client = connect(server.address)
    client.model_info()
    server.service.step_seconds = 5
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=f"no answer from {server.address} in time"):
        list(getattr(client, method)(rows[:num_rows], timeout=0.3))
    assert 0.29 < time.monotonic() - began < 1.3


def test_pieces_share_one_deadline(connect: Any, server: EchoServer, rows: np.ndarray) -> None:
    """Eight pieces, two at a time, 0.2 s each: the last two begin after 0.6 s."""
    server.service.limits.max_items = 20
    server.service.step_seconds = 0.2
    connect(server.address, max_in_flight=2, timeout=5).verbalize(rows)
    remaining = [received.time_remaining for received in server.service.received[1:]]
    assert len(remaining) == 8
    assert max(remaining) < 5.05
    # 4.4, rounded up to a tenth on the wire, less what else took time.
    assert 4.0 < min(remaining) < 4.55


def test_a_pushback_beyond_the_deadline_ends_at_the_deadline(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    fault = Fault(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", pushback_ms=60_000)
    server.service.faults = deque([fault])
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        connect(server.address, timeout=0.3).verbalize(rows[:1])
    assert time.monotonic() - began < 1.3
