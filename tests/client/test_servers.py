"""Several servers behind one client: who gets the calls, and when."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gloss_client import Client, ConfigError, DeadlineExceeded, Unavailable
from gloss_client.address import Address
from gloss_client.connection import Connection
from support.echo_server import EchoServer, echo_server


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Waits for a connection or a health watch."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_calls_go_round_the_servers_that_serve(connect: Any, rows: np.ndarray) -> None:
    """And a server that says NOT_SERVING loses its calls without an error."""
    with echo_server() as first, echo_server() as second:
        client = connect([first.address, second.address])

        def both_get_calls() -> bool:
            client.verbalize(rows[:1])
            return bool(first.service.received and second.service.received)

        wait_until(both_get_calls)
        before = [len(server.service.received) for server in (first, second)]
        for _ in range(10):
            client.verbalize(rows[:1])
        after = [len(server.service.received) for server in (first, second)]
        assert [new - old for new, old in zip(after, before, strict=True)] == [5, 5]

        first.set_serving(False)

        def first_gets_none() -> bool:
            before = len(first.service.received)
            for _ in range(4):
                client.verbalize(rows[:1])
            return len(first.service.received) == before

        wait_until(first_gets_none)
        first.set_serving(True)
        before_return = len(first.service.received)

        def first_gets_calls() -> bool:
            client.verbalize(rows[:1])
            return len(first.service.received) > before_return

        wait_until(first_gets_calls)


def test_a_server_that_does_not_serve_is_not_said_to_be_gone(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """As while its engine is started again: it can be reached, and nobody has to start one."""
    server.set_serving(False)
    client = connect(server.address)
    with pytest.raises(Unavailable, match=f"no server at {server.address} serves.*NOT_SERVING"):
        client.verbalize(rows[:1])


def test_pieces_go_round_too(connect: Any, rows: np.ndarray) -> None:
    with echo_server() as first, echo_server() as second:
        for server in (first, second):
            server.service.limits.max_items = 10
        client = connect(f"{first.address},{second.address}")
        expected = client.verbalize(rows, seed=3)

        def both_get_pieces() -> bool:
            assert client.verbalize(rows, seed=3).explanations == expected.explanations
            return min(len(server.service.received) for server in (first, second)) > 5

        wait_until(both_get_pieces)


def test_one_dead_server_among_two_costs_no_call(connect: Any, rows: np.ndarray) -> None:
    with echo_server() as lives:
        with echo_server() as dies:
            client = connect([lives.address, dies.address])
            client.verbalize(rows[:1])
        for _ in range(10):
            client.verbalize(rows[:1])


def test_nobody_serves(connect: Any, server: EchoServer, rows: np.ndarray) -> None:
    """Calls fail at once, while health still says why."""
    server.set_serving(False)
    client = connect(server.address)
    with pytest.raises(Unavailable, match=server.address):
        client.verbalize(rows[:1])
    assert client.health() == "not_serving"
    assert server.service.received == []


def test_a_server_that_comes_back_is_found(connect: Any, rows: np.ndarray) -> None:
    with echo_server() as before:
        client = connect(before.address)
        client.verbalize(rows[:1])
    with pytest.raises(Unavailable):
        client.verbalize(rows[:1])
    port = int(before.address.rpartition(":")[2])
    with echo_server(port=port):

        def is_found() -> bool:
            try:
                return bool(client.verbalize(rows[:1]).explanations)
            except Unavailable:
                return False

        wait_until(is_found)


@pytest.mark.parametrize(
    ("given", "target", "loopback"),
    [
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051", True),
        (" localhost:1 ", "dns:///localhost:1", True),
        ("gloss:50051", "dns:///gloss:50051", False),
        ("[::1]:50051", "dns:///[::1]:50051", True),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", False),
        (["127.0.0.1:1", "127.0.0.2:2"], "ipv4:127.0.0.1:1,127.0.0.2:2", True),
        (("[::1]:1", "[fe80::1]:2"), "ipv6:[::1]:1,[fe80::1]:2", False),
        ("dns:///gloss.svc:50051", "dns:///gloss.svc:50051", False),
        ("dns:gloss:1", "dns:gloss:1", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("unix:/run/gloss.sock", "unix:/run/gloss.sock", True),
    ],
)
def test_addresses(given: Any, target: str, loopback: bool) -> None:
    address = Address.parse(given)
    assert (address.target, address.loopback) == (target, loopback)


@pytest.mark.parametrize(
    "given",
    [
        "",
        [],
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:70000",
        "::1:50051",
        "http://localhost:50051",
        "a:1,b:2",
        "127.0.0.1:1,[::1]:2",
        "127.0.0.1:1,",
        "dns:///gloss",
    ],
)
def test_what_is_no_address_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="address: got"):
        Client(given)


@pytest.mark.parametrize(
    ("options", "message"), [({"timeout": 0}, "timeout"), ({"max_in_flight": 0}, "max_in_flight")]
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Client("127.0.0.1:1", **options)


def test_the_channels_options() -> None:
    """gRPC ignores a misspelt key without a word, so the spelling is held here."""
    connection = Connection.of(
        "127.0.0.1:1",
        tls=None,
        token=None,
        token_file=None,
        allow_plaintext_token=False,
        retry=None,
        wait_for_ready=False,
        timeout=1,
        max_in_flight=1,
    )
    options = dict(connection.options())
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.http2.max_pings_without_data"] == 0
    assert options["grpc.initial_reconnect_backoff_ms"] == 200
    assert options["grpc.max_reconnect_backoff_ms"] == 5_000
    assert options["grpc.per_rpc_retry_buffer_size"] >= 32 << 20
    assert options["grpc.max_receive_message_length"] > 4 << 20
    config = json.loads(str(options["grpc.service_config"]))
    service = "gloss_api.v1.GlossService"
    usual, unary = config["methodConfig"]
    assert usual == {"name": [{"service": service}]}
    names = ["Verbalize", "Reconstruct", "Score", "GetModelInfo", "GetStats"]
    assert unary["name"] == [{"service": service, "method": name} for name in names]
    policy = unary["retryPolicy"]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]


def test_a_child_is_told_to_make_its_own_client(
    server: EchoServer, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(server.address) as client:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="before a fork"):
            client.verbalize(rows[:1])


def test_waiting_for_a_server_that_serves(server: EchoServer, rows: np.ndarray) -> None:
    """Without it the call fails within seconds, with it as soon as there is one."""
    server.set_serving(False)
    with Client(server.address, wait_for_ready=True, timeout=10) as client:
        threading.Timer(0.5, server.set_serving, (True,)).start()
        began = time.monotonic()
        assert len(client.verbalize(rows[:1]).explanations) == 1
        assert 0.4 < time.monotonic() - began < 5


def test_waiting_ends_with_the_deadline(server: EchoServer, rows: np.ndarray) -> None:
    server.set_serving(False)
    with Client(server.address, wait_for_ready=True) as client, pytest.raises(DeadlineExceeded):
        client.verbalize(rows[:1], timeout=0.3)
