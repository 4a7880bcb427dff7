"""A client that was closed says so, whatever is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gloss_client import AsyncClient, Cancelled, Client
from support.echo_server import EchoServer

SAID = "this client is closed; make another one"
CALLS: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "verbalize": lambda client, rows: client.verbalize(rows[:1]),
    "verbalize in pieces": lambda client, rows: client.verbalize(rows),
    "explain": lambda client, rows: client.explain("a"),
    "capture": lambda client, rows: client.capture(["a"]),
    "reconstruct": lambda client, rows: client.reconstruct(["a"]),
    "score": lambda client, rows: client.score(["a"], rows[:1]),
    "model_info": lambda client, rows: client.model_info(),
    "stats": lambda client, rows: client.stats(),
    "health": lambda client, rows: client.health(),
    "stream_verbalize": lambda client, rows: list(client.stream_verbalize(rows[:1])),
    "stream in pieces": lambda client, rows: list(client.stream_verbalize(rows)),
    "stream_explain": lambda client, rows: list(client.stream_explain("a")),
    "stream_capture": lambda client, rows: list(client.stream_capture(["a"])),
    "watch": lambda client, rows: list(client.watch("a")),
}


@pytest.mark.parametrize("is_used", [True, False])
def test_every_call_of_a_closed_client_is_refused(
    connect: Any, server: EchoServer, rows: np.ndarray, is_used: bool
) -> None:
    client = connect(server.address)
    if is_used:
        # In pieces, a thread each, once it knows the limits.
        client.model_info()
    opened_before = client.stream_verbalize(rows)
    client.close()
    received = len(server.service.received)
    for name, call in CALLS.items():
        with pytest.raises(Cancelled) as caught:
            call(client, rows)
        assert (name, caught.value.message) == (name, SAID)
        assert caught.value.code == "CANCELLED"
    with pytest.raises(Cancelled, match=SAID):
        list(opened_before)
    assert len(server.service.received) == received
    client.close()


def test_asyncio_clients_of_one_connection_are_closed_together(
    runner: asyncio.Runner, server: EchoServer
) -> None:
    async def close_one() -> None:
        first = AsyncClient(server.address)
        await first.with_token("t").close()
        with pytest.raises(Cancelled, match=SAID):
            await first.stats()

    runner.run(close_one())


def test_a_client_that_another_thread_closes_as_a_call_begins(server: EchoServer) -> None:
    """gRPC says that with a ValueError; another one of its own stays what it is."""
    with Client(server.address) as client:
        connection = client._connection

        def closed_meanwhile(request: object, **options: Any) -> None:
            client.close()
            raise ValueError("Cannot invoke RPC: Channel closed!")

        def wrong(request: object, **options: Any) -> None:
            raise ValueError("another fault")

        with pytest.raises(ValueError, match="another fault"):
            connection.begin(wrong, None, connection.deadline(1))
        with pytest.raises(Cancelled, match=SAID):
            connection.begin(closed_meanwhile, None, connection.deadline(1))
